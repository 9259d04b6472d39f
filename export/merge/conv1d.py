"""GPT-2's layers: Conv1D holds its matrix as [in, out], where every other linear layer has [out, in]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.files import read_json

TYPES = frozenset({"gpt2", "openai-gpt"})  # of config.json's model_type
FLAG = "fan_in_fan_out"  # PEFT's, in adapter_config.json; it sets it by itself, also where it was said otherwise


def conv1d_modules(base: Path, adapter: dict[str, Any]) -> frozenset[str]:
    """Return the names of the base's Conv1D modules; no model is made where neither base nor adapter speaks of them.

    `adapter` is adapter_config.json's content.
    """
    config = read_json(base / "config.json")
    if config.get("model_type") not in TYPES and not adapter.get(FLAG):
        return frozenset()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..private.transformers import Conv1D

    with torch.device("meta"):
        outline = AutoConfig.from_pretrained(base, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(outline, trust_remote_code=False)
    return frozenset(name for name, module in model.named_modules() if isinstance(module, Conv1D))
