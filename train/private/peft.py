"""PEFT's private API: which modules of a model an adapter's config means."""

from __future__ import annotations

from typing import Any

from burnish.private.needs import Need

NEEDS = (
    Need(
        "peft.tuners.tuners_utils:check_target_module_exists",
        "the layers of a trained adapter are not found",
        parameters=("config", "key"),
    ),
    Need(
        "peft.utils:TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING",
        "an adapter that left its layers to PEFT can't be continued",
    ),
)


def default_targets(model_type: str) -> Any:
    """Return the modules that PEFT chooses for an architecture; None: it has no choice."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOSEN

    return CHOSEN.get(model_type)


def targeted(config: Any, names: list[str]) -> set[str]:
    """Return those of a model's module names that a LoraConfig puts an adapter on."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return {name for name in names if check_target_module_exists(config, name)}
