"""What can't work here whatever the data and the base are: packages that are missing, and how training was started."""

from __future__ import annotations

import importlib.util

from burnish.config import ConfigError

from ..peft_config import adapter_path
from ..settings import TrainSettings
from ..world import World


def environment_faults(settings: TrainSettings, world: World) -> list[str]:
    """Return what is wrong with the environment for these settings, a line each; torch is not asked."""
    faults = []
    if settings.base.backend == "unsloth" and importlib.util.find_spec("unsloth") is None:
        faults.append(
            "base.backend: unsloth is not installed here: take the train image (RUNNER=docker), or say transformers"
        )
    if settings.base.backend == "unsloth" and not settings.base.double_quant:
        faults.append("base.double_quant: unsloth always quantizes the constants too: leave it true")
    if settings.base.backend == "unsloth" and settings.lora.has_pattern:
        faults.append("lora.target_modules: unsloth takes names, not an expression: list them, or say all-linear")
    if settings.base.attn_implementation == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        faults.append("base.attn_implementation: flash_attn is not installed here: install it, or say auto")
    faults += [
        f"train.report_to: {name} is not installed here: pip install {name}, or leave it out"
        for name in settings.train.report_to
        if importlib.util.find_spec(name) is None
    ]
    if world.size > 1:
        faults.append("training runs on one GPU: start it without torchrun")
    return faults + _adapter_faults(settings)


def _adapter_faults(settings: TrainSettings) -> list[str]:
    if not settings.lora.resume_adapter:
        return []
    if settings.base.backend == "unsloth":
        return ["lora.resume_adapter: only base.backend: transformers goes on from an adapter"]
    try:
        adapter_path(settings)
    except ConfigError as error:
        return list(error.faults)
    return []
