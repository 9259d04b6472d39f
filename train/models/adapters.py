"""The LoRA adapter on a base: a new one, or a trained one to continue from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from burnish.config import ConfigError
from burnish.console import warn
from burnish.errors import did_you_mean
from burnish.files import first_line, irregular_in, read_json

from ..private.transformers import Conv1D
from ..settings import LoraSection, TrainSettings


def add_adapter(model: Any, lora: LoraSection) -> PeftModel:
    """Put a LoRA adapter on the base. Raises ConfigError that names the layers there are where a target is none."""
    check_targets(model, lora.target_modules)
    scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    if scale < 1:
        warn(f"the adapter's scale is {scale:.2g} (lora_alpha {lora.lora_alpha}, r {lora.r}): below 1 it learns little")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # PEFT knows layers that an adapter would break (Mamba's out_proj)
        raise ConfigError(f"lora.target_modules: {first_line(error)}") from None


def resume_adapter(model: Any, settings: TrainSettings) -> PeftModel:
    """Put a trained adapter on the base, to continue from. Raises ConfigError where it is missing, or doesn't fit."""
    path = adapter_path(settings)
    if read_json(path / "adapter_config.json").get("megatron_config"):
        # PEFT would import the module that the file names
        raise ConfigError(f"lora.resume_adapter {path}: adapter_config.json sets megatron_config: not trained here")
    try:
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=True)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"lora.resume_adapter {path}: doesn't go on this base: {reason}") from None
    adapted.peft_config["default"].base_model_name_or_path = model.name_or_path
    return adapted


def adapter_path(settings: TrainSettings) -> Path:
    """Return the directory of the adapter to start from: given as such, or as a run's id."""
    name = str(settings.lora.resume_adapter)
    places = [Path(name), Path(name) / "adapter", Path(settings.run.root) / name / "adapter"]
    found = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if found is None:
        raise ConfigError(
            f"lora.resume_adapter {name}: no adapter_config.json there, and no run of that id in {settings.run.root}/:"
            " give an adapter's directory or a run's id"
        )
    if faults := irregular_in(found):
        raise ConfigError([f"lora.resume_adapter {name}: {fault}" for fault in faults])
    return found


def check_targets(model: Any, targets: list[str] | str) -> None:
    """Raise ConfigError that names the linear layers there are where a target is no layer of the model.

    A text is a regular expression over whole names, as PEFT takes it, or all-linear.
    """
    kinds = (torch.nn.Linear, Conv1D)
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, kinds)}
    names = {name for name, _ in model.named_modules()}
    if isinstance(targets, str):
        if targets != "all-linear" and not any(re.fullmatch(targets, name) for name in names):
            raise ConfigError(
                f"lora.target_modules: the regular expression {targets!r} matches no whole name of a layer of this base"
                f" (such as {next((n for n in names if n.rsplit('.', 1)[-1] in linear), 'none')}; its linear layers:"
                f" {', '.join(sorted(linear))})"
            )
        return
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        raise ConfigError(
            [
                f"lora.target_modules: this base has no layer '{t}'{did_you_mean(t, linear)} (its linear layers:"
                f" {', '.join(sorted(linear))})"
                for t in missing
            ]
        )
