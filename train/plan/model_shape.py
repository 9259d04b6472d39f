"""A model's sizes, computed from its config without loading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.exam.memory import Sizes

from ..private.transformers import Conv1D

NF4_BYTES = 0.5 + 4 / 64  # codes, and a float32 scale per 64 weights (train/kernels/lora.py)


@dataclass(frozen=True)
class Shape:
    """Sizes in numbers, not bytes. `linear` lists the layers' matrices, (out, in); `other` counts everything else."""

    layers: int
    hidden: int
    vocabulary: int
    linear: tuple[tuple[int, int], ...]
    other: int
    saved_per_token: int
    widest: int

    @property
    def linear_parameters(self) -> int:
        return sum(out * inner for out, inner in self.linear)

    @property
    def largest_matrix(self) -> int:
        return max((out * inner for out, inner in self.linear), default=0)

    def weight_bytes(self, quantization: str, item: int) -> int:
        """Return the base's size in bytes; embeddings, head and norms stay in 16 or 32 bits (`item` bytes)."""
        return round(self.linear_parameters * (NF4_BYTES if quantization == "nf4" else item) + self.other * item)

    def adapter_parameters(self, r: int) -> int:
        """Return the number of LoRA parameters if every linear layer has an adapter."""
        return sum(r * (out + inner) for out, inner in self.linear)

    def flops_per_token(self, checkpointing: bool) -> float:
        """Return the operations per trained token: forward, and backward for the input only (the base is frozen)."""
        passes = 3 if checkpointing else 2
        return 2.0 * passes * self.linear_parameters + 4.0 * self.hidden * self.vocabulary


def empty_model(path: Path, trust_remote_code: bool) -> Any:
    """Return a checkpoint's model without weights."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def shape_of(model: Any) -> Shape:
    """Return a model's shape; the model may be on any device."""
    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    # GPT-2's matrices are transposed (Conv1D)
    sizes = tuple((m.out_features, m.in_features) for m in linear) + tuple(
        (m.nf, m.nx) for m in model.modules() if isinstance(m, Conv1D)
    )
    every = sum(p.numel() for p in model.parameters())
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    heads = int(getattr(text, "num_attention_heads", 1))  # a state-space model has none
    query = int(heads * (getattr(text, "head_dim", None) or hidden // heads))
    # a layer's outputs, except to the residual stream: queries, keys, values, gate and up
    outputs = sum(out for out, _ in sizes if out != hidden) / layers
    keys = 2 * int(getattr(text, "num_key_value_heads", None) or heads) * query
    keys //= heads
    queries = sum(out for out, _ in sizes if out == hidden) // layers
    wide = outputs - (keys if keys // 2 != hidden else 0)
    # two residuals, queries, keys and values, attention's output, and the wide outputs
    saved = 2 * hidden + query + keys + query + wide if queries else outputs
    return Shape(
        layers, hidden, int(text.vocab_size), sizes, every - sum(o * i for o, i in sizes), round(saved),
        max((out for out, _ in sizes), default=hidden),
    )  # fmt: skip


def exam_sizes(model: Any) -> Sizes:
    """Return the sizes that determine the memory needed by export's exam, which loads one layer at a time."""
    text = model.config.get_text_config()
    layers: dict[str, int] = {}
    around = 0
    for name, module in model.named_modules():
        if any(f"{name}.".startswith(f"{layer}.") for layer in layers):
            continue
        if isinstance(module, torch.nn.ModuleList):
            layers |= {
                f"{name}.{k}": sum(p.numel() for p in child.parameters()) for k, child in module.named_children()
            }
        elif not isinstance(module, torch.nn.Embedding | torch.nn.Linear):  # the exam leaves these on disk
            around += sum(p.numel() for p in module.parameters(recurse=False))
    capped = getattr(text, "attn_logit_softcapping", None)
    return Sizes(
        max(layers.values(), default=0), around, int(text.hidden_size), shape_of(model).widest, int(text.vocab_size),
        int(text.num_attention_heads) if capped else 0,
    )  # fmt: skip
