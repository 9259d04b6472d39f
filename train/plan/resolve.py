"""Resolve every "auto" setting from the data, the plan and the base."""

from __future__ import annotations

from typing import Any

import torch

from burnish.config import ConfigError
from burnish.files import tree_sha256

from ..data.prepare import Prepared
from ..models.device import dtype_name
from ..peft_config import CONFIG, adapter_path, continued, targets
from ..resolved import AUTO, Resolved, auto_keys, changed, undecided
from ..settings import LoraSection, TrainSettings
from .memory import Plan


def resolve(
    settings: TrainSettings, prepared: Prepared, planned: Plan, attention: str, device: torch.device
) -> Resolved:
    """Return the settings with every "auto" resolved from the data, the plan and the base's `attention`.

    If training starts from an adapter, `settings` already contains the adapter's values (see `with_adapter`).
    """
    stopping = settings.train.early_stopping_patience is not None
    settings = changed(
        settings,
        "base",
        revision=prepared.base.revision,
        quantization=planned.quantization,
        dtype=dtype_name(settings.base, device),
        attn_implementation=attention,
        backend=planned.backend,
    )
    settings = changed(settings, "data", **_found_in_data(settings, prepared))
    settings = changed(settings, "lora", config_file=None)  # the file's values are already in the settings
    settings = changed(
        settings,
        "train",
        micro_batch_tokens=planned.micro_batch_tokens,
        gradient_checkpointing=planned.checkpointing,
        torch_compile=planned.compiled and planned.backend == "transformers",
        optim=planned.optim,
        # the best checkpoint must be one of the saved ones
        save_steps=settings.train.eval_steps if stopping else settings.train.save_steps,
    )
    if left := undecided(settings):
        raise ConfigError([f"{key} is still {AUTO} after resolution: this is a bug in Burnish" for key in left])
    resumed = settings.lora.resume_adapter
    return Resolved(settings, planned.steps, tree_sha256(adapter_path(settings)) if resumed else None)


def with_adapter(settings: TrainSettings, model: Any) -> TrainSettings:
    """Return the settings with the rank, scale and targets of the adapter that training starts from.

    `model` is the base, whose weights are not needed.
    """
    if not settings.lora.resume_adapter:
        return settings
    directory = adapter_path(settings)
    continued_settings = continued(directory / CONFIG, LoraSection)
    if "target_modules" not in continued_settings and (found := targets(directory, model)):
        continued_settings["target_modules"] = found
    return changed(settings, "lora", **continued_settings)


def _found_in_data(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    """Return the data section's "auto" settings as resolved while preparing the rows.

    For each, Prepared has an attribute with the setting's name.
    """
    open_keys = [key for section, key in auto_keys() if section == "data" and getattr(settings.data, key) == AUTO]
    return {key: getattr(prepared, key, AUTO) for key in open_keys}
