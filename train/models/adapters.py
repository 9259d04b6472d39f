"""Add a LoRA adapter to a base: a new one, or a trained one to continue training."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from burnish.config import ConfigError
from burnish.errors import KNOWN, nearest
from burnish.files import first_line, read_json

from ..peft_config import adapter_path
from ..private.transformers import Conv1D
from ..settings import LoraSection, TrainSettings


def add_adapter(model: Any, lora: LoraSection) -> PeftModel:
    """Add a new LoRA adapter to the base. Raises ConfigError, listing the base's layers, for a wrong target."""
    check_targets(model, lora.target_modules)
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
    except ValueError as error:  # PEFT rejects layers that an adapter would break (Mamba's out_proj)
        raise ConfigError(f"lora.target_modules: {first_line(error)}") from None


def resume_adapter(model: Any, settings: TrainSettings) -> PeftModel:
    """Add a trained adapter to the base for further training. Raises ConfigError if it is missing or doesn't fit."""
    path = adapter_path(settings)
    if read_json(path / "adapter_config.json").get("megatron_config"):
        # PEFT would import the module named in the file
        raise ConfigError(f"lora.resume_adapter {path}: megatron_config is not supported")
    try:
        adapted = PeftModel.from_pretrained(model, str(path), is_trainable=True)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"lora.resume_adapter {path}: doesn't fit this base: {reason}") from None
    adapted.peft_config["default"].base_model_name_or_path = model.name_or_path
    return adapted


def check_targets(model: Any, targets: list[str] | str) -> None:
    """Raise ConfigError, listing the model's linear layers, if a target is not a layer in the model.

    A string is all-linear or, as in PEFT, a regular expression over full names.
    """
    kinds = (torch.nn.Linear, Conv1D)
    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, kinds)}
    names = {name for name, _ in model.named_modules()}
    if isinstance(targets, str):
        if targets != "all-linear" and not any(re.fullmatch(targets, name) for name in names):
            raise ConfigError(
                f"lora.target_modules: the regular expression {targets!r} matches no full layer name of this base"
                f" (such as {next((n for n in names if n.rsplit('.', 1)[-1] in linear), 'none')}; its linear layers:"
                f" {', '.join(sorted(linear))})"
            )
        return
    missing = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if missing:
        layers = ", ".join(sorted(linear))
        raise ConfigError(
            [f"lora.target_modules: this base has no layer '{t}'{_meant(t, linear)}{KNOWN}{layers}" for t in missing]
        )


def _meant(target: str, layers: Collection[str]) -> str:
    """Return a suggestion for the layer that a name most likely refers to, such as q_proj for q."""
    short = [layer for layer in layers if layer.startswith(f"{target}_")]
    meant = short[0] if len(short) == 1 else nearest(target, layers)
    return f" (did you mean '{meant}'?)" if meant else ""
