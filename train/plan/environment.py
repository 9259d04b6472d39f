"""Checks that don't depend on data or base: missing packages, and how training was started."""

from __future__ import annotations

import importlib.util

from burnish.config import ConfigError

from ..peft_config import adapter_path
from ..settings import TrainSettings
from ..world import World


def environment_faults(settings: TrainSettings, world: World) -> list[str]:
    """Return the environment's errors for these settings, one line each, without using torch."""
    faults = []
    if settings.base.backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        faults.append(
            "base.backend: unsloth is not installed: use the train image (RUNNER=docker), or set transformers"
        )
    if settings.base.backend == "unsloth" and not settings.base.double_quant:
        faults.append("base.double_quant: unsloth always uses double quantization: set true")
    if settings.base.backend == "unsloth" and settings.lora.has_pattern:
        faults.append("lora.target_modules: unsloth does not support expressions: list names, or set all-linear")
    if settings.base.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        faults.append("base.attn_implementation: flash_attn is not installed: install it, or set auto")
    faults += [
        f"train.report_to: {name} is not installed: pip install {name}, or remove it"
        for name in settings.train.report_to
        if importlib.util.find_spec(name) is None
    ]
    if world.size > 1:
        faults.append("training supports one GPU: start it without torchrun")
    return faults + _adapter_faults(settings)


def _adapter_faults(settings: TrainSettings) -> list[str]:
    if not settings.lora.resume_adapter:
        return []
    if settings.base.backend == "unsloth":
        return ["lora.resume_adapter needs base.backend: transformers"]
    try:
        adapter_path(settings)
    except ConfigError as error:
        return list(error.faults)
    return []
