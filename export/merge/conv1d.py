"""GPT-2's layers: Conv1D stores its matrix as [in, out], while other linear layers use [out, in]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish.files import read_json

TYPES = frozenset({"gpt2", "openai-gpt"})  # model_type in config.json
FLAG = "fan_in_fan_out"  # in adapter_config.json; PEFT sets it itself, overriding the user's value


def conv1d_modules(base: Path, adapter: dict[str, Any]) -> frozenset[str]:
    """Return the names of the base's Conv1D modules, without building a model if neither base nor adapter suggests any.

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
