"""unsloth, used as in its guides. Only this module imports it, since the import patches transformers, TRL and PEFT."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # otherwise unsloth sends usage statistics to a server
os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")  # the exam needs logits
from unsloth import FastLanguageModel  # isort: skip  # before transformers, TRL and PEFT

import torch
from peft import PeftModel

from burnish.bases.base import Base
from burnish.config import ConfigError

from ..resolved import Resolved
from .device import dtype

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class UnslothBackend:
    """unsloth's loader and adapter. Its attention uses masks instead of row boundaries, so micro-batches are padded."""

    packs = False

    def load(self, found: Base, resolved: Resolved, device: torch.device) -> Any:
        """Return the frozen base, with unsloth's kernels."""
        if device.type != "cuda":
            raise ConfigError("base.backend: unsloth needs an NVIDIA GPU; set transformers to train on a CPU")
        model, _ = FastLanguageModel.from_pretrained(
            str(found.path),
            max_seq_length=resolved.data.max_length,
            dtype=dtype(resolved.base, device),
            load_in_4bit=resolved.base.quantization == "nf4",
            use_exact_model_name=True,
            trust_remote_code=resolved.base.trust_remote_code,
        )
        return model

    def adapt(self, model: Any, resolved: Resolved) -> PeftModel:
        """Return the base with a new adapter; unsloth's checkpointing offloads activations to host memory."""
        lora = resolved.lora
        if lora.resume_adapter:
            raise ConfigError("lora.resume_adapter needs base.backend: transformers")
        return FastLanguageModel.get_peft_model(
            model,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            target_modules=LINEAR if lora.target_modules == "all-linear" else lora.target_modules,
            bias=lora.bias,
            use_rslora=lora.use_rslora,
            use_gradient_checkpointing="unsloth" if resolved.checkpointing else False,
            random_state=resolved.train.seed,
        )
