"""Private PEFT API: the modules that an adapter config selects in a model."""

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
        "an adapter without target_modules in its config can't be continued",
    ),
)


def default_targets(model_type: str) -> Any:
    """Return PEFT's default target modules for an architecture, or None if there are none."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOSEN

    return CHOSEN.get(model_type)


def targeted(config: Any, names: list[str]) -> set[str]:
    """Return the names of the modules that a LoraConfig adapts."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return {name for name in names if check_target_module_exists(config, name)}
