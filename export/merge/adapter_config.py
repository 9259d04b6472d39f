"""Read adapter_config.json and validate its types and ranges, since the file is untrusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from burnish.errors import UserError

NAME = "adapter_config.json"
MAX_BYTES, MAX_FAULTS, MAX_RANK = 1 << 24, 5, 1 << 16
# keys that the merge handles or that don't affect its arithmetic; any other key with a value is rejected by name
HARMLESS = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "r", "lora_alpha", "lora_dropout",
    "bias", "use_rslora", "use_dora", "lora_bias", "modules_to_save", "init_lora_weights", "rank_pattern",
    "alpha_pattern", "megatron_core", "trainable_token_indices", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "fan_in_fan_out",
})  # fmt: skip
REFUSED = {
    "layer_replication": "bases with repeated layers are not supported",
    "target_parameters": "merging adapters of bare parameters (fused experts) is not supported",
    "alora_invocation_tokens": "an adapter that only acts after certain tokens can't be merged into weights",
    "arrow_config": "a router over adapters can't be merged into weights",
}
# the other initialisations change the base's weights before training
PLAIN_INITIALISATIONS = (True, False, "gaussian", "eva")
# regular expressions that can take exponential time: a repeated group, or many repetitions
REPEATED_GROUP = re.compile(r"\)\s*[*+?{]")
MAX_REPETITIONS, MAX_EXPRESSION = 2, 500

Rank = Annotated[int, Field(strict=True, ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Row = Annotated[int, Field(strict=True, ge=0)]
Switch = Annotated[bool, Field(strict=True)]


class MergeError(UserError):
    """Raised when an adapter can't be merged onto this base; the message gives the reason."""


class _Checked(BaseModel):
    """The keys used by a merge, in the form written by PEFT."""

    model_config = ConfigDict(extra="allow")

    peft_type: str
    r: Rank
    lora_alpha: Alpha
    use_rslora: Switch | None = None
    use_dora: Switch | None = None
    fan_in_fan_out: Switch | None = None
    init_lora_weights: Switch | str | None = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[Row] | dict[str, list[Row]] | None = None


def read(directory: Path) -> dict[str, Any]:
    """Return the file's content. Raises MergeError listing every error."""
    path = directory / NAME
    config = _object(path)
    try:
        _Checked.model_validate(config)
    except ValidationError as error:
        raise MergeError([f"{path}: {fault}" for fault in _described(error)]) from None
    if faults := [*_refused(config), *_expressions(config)]:
        raise MergeError([f"{path}: {fault}" for fault in faults])
    return config


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises MergeError for anything else and for files too large to be a configuration."""
    if not path.is_file():
        raise MergeError(f"{path}: the adapter's configuration is {'not a file' if path.exists() else 'missing'}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MergeError(f"{path}: the adapter's configuration can't be read: {error}") from None
    if not isinstance(config, dict):
        raise MergeError(f"{path}: expected a JSON object, found {json.dumps(config)[:40]}")
    return config


def _described(error: ValidationError) -> list[str]:
    """Return one error per key, since pydantic reports an error for each member of a union."""
    faults = {e["loc"][0]: f"{e['msg']}, found {str(e['input'])[:60]!r}" for e in reversed(error.errors())}
    return [f"{key}: {fault}" for key, fault in reversed(faults.items())][:MAX_FAULTS]


def _refused(config: dict[str, Any]) -> list[str]:
    faults = [
        f"{key} is set: {REFUSED.get(key, 'its effect on the weights is unknown, so it is not merged')}"
        for key, value in config.items()
        if value and key not in HARMLESS and key != "megatron_config"
    ]
    if config["peft_type"] != "LORA":
        faults.append(f"peft_type is {config['peft_type']}: only LORA can be merged")
    if config.get("init_lora_weights", True) not in PLAIN_INITIALISATIONS:
        faults.append(f"init_lora_weights {config['init_lora_weights']} changed the base's weights")
    return faults


def _expressions(config: dict[str, Any]) -> list[str]:
    """Yield the patterns (regular expressions over module names) that are invalid or may take exponential time."""
    faults = []
    for key in ("rank_pattern", "alpha_pattern"):
        for expression in config.get(key) or {}:
            repeated = len(re.findall(r"[*+]|\{\d*,", expression))
            if len(expression) > MAX_EXPRESSION or REPEATED_GROUP.search(expression) or repeated > MAX_REPETITIONS:
                faults.append(f"{key}: '{expression[:60]}' repeats groups or repeats too often: simplify it")
                continue
            try:
                re.compile(expression)
            except (re.error, RecursionError, OverflowError) as error:
                faults.append(f"{key}: '{expression[:60]}' is not a regular expression: {error}")
    return faults
