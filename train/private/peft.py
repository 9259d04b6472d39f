"""Private API of PEFT: the modules of a model that an adapter's config selects."""

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
    """Return PEFT's default modules for an architecture; None if it has none."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOSEN

    return CHOSEN.get(model_type)


def targeted(config: Any, names: list[str]) -> set[str]:
    """Return the module names to which a LoraConfig adds an adapter."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return {name for name in names if check_target_module_exists(config, name)}
