"""Decide everything that the settings leave open: from the data, the plan and the base."""

from __future__ import annotations

from typing import Any

import torch

from burnish.config import ConfigError
from burnish.run import tree_sha256

from ..data.prepare import Prepared
from ..models.adapters import adapter_path
from ..models.device import dtype_name
from ..peft_config import CONFIG, continued, targets
from ..resolved import AUTO, Resolved, auto_keys, changed, undecided
from ..settings import LoraSection, TrainSettings
from .memory import Plan


def resolve(settings: TrainSettings, prepared: Prepared, made: Plan, attention: str, device: torch.device) -> Resolved:
    """Decide everything that the settings leave open: from the data, the plan and the base's `attention`.

    Where training starts from an adapter, `settings` have its values already (`with_adapter`).
    """
    stopping = settings.train.early_stopping_patience is not None
    settings = changed(
        settings,
        "base",
        revision=prepared.base.revision,
        quantization=made.quantization,
        dtype=dtype_name(settings.base, device),
        attn_implementation=attention,
        backend=made.backend,
    )
    settings = changed(settings, "data", **_found_in_data(settings, prepared))
    settings = changed(settings, "lora", config_file=None)  # its values are here
    settings = changed(
        settings,
        "train",
        micro_batch_tokens=made.micro_batch_tokens,
        gradient_checkpointing=made.checkpointing,
        torch_compile=made.compiled and made.backend == "transformers",
        optim=made.optim,
        # the best checkpoint must be among those that are kept
        save_steps=settings.train.eval_steps if stopping else settings.train.save_steps,
    )
    if left := undecided(settings):
        raise ConfigError(
            [f"{key}: is still {AUTO} after everything was decided: this is a fault of ours" for key in left]
        )
    resumed = settings.lora.resume_adapter
    return Resolved(settings, made.steps, tree_sha256(adapter_path(settings)) if resumed else None)


def with_adapter(settings: TrainSettings, model: Any) -> TrainSettings:
    """Return the settings with those of the adapter that training starts from: it keeps its rank, scale and targets.

    `model` is the base, of which no weight is needed.
    """
    if not settings.lora.resume_adapter:
        return settings
    directory = adapter_path(settings)
    kept = continued(directory / CONFIG, LoraSection)
    if "target_modules" not in kept and (found := targets(directory, model)):
        kept["target_modules"] = found
    return changed(settings, "lora", **kept)


def _found_in_data(settings: TrainSettings, prepared: Prepared) -> dict[str, Any]:
    """Return what each "auto" of the data section became while the rows were prepared.

    Prepared has an attribute of the setting's name for each.
    """
    left = [key for section, key in auto_keys() if section == "data" and getattr(settings.data, key) == AUTO]
    return {key: getattr(prepared, key, AUTO) for key in left}
