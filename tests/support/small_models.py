"""Models with a few thousand weights in several architectures, with non-zero adapters, and rows for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from burnish.data.formats import Example
from train.data.mask import Row
from train.models.adapters import add_adapter
from train.settings import LoraSection

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama(**changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, **changes))


def tied_llama() -> Any:
    return llama(tie_word_embeddings=True)


def mistral() -> Any:
    """The sliding window is shorter than the rows."""
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8))


def gemma() -> Any:
    """Soft caps on attention and logits, low enough to affect weights of this size."""
    caps = {"final_logit_softcapping": 0.05, "attn_logit_softcapping": 0.05, "head_dim": 8, "sliding_window": 8}
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, **caps))


def gemma_eager() -> Any:
    model = gemma()
    model.set_attn_implementation("eager")
    return model


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4))


def adapted(make: Any, targets: Any = "all-linear") -> Any:
    """Return a model with large enough weights and a non-zero adapter."""
    torch.manual_seed(0)
    model = make().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    model = add_adapter(model, LoraSection(r=4, lora_alpha=8, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def rows(seed: int = 1) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for line, length in enumerate((23, 5, 40, 9, 17, 31), start=1):
        ids = torch.randint(3, 96, (length,), generator=generator).tolist()
        made.append(Row(Example(line, None, "x"), ids, ((length // 2, length),)))
    return made


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])
