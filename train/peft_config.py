"""Read PEFT's lora_config.json or adapter_config.json, checked against peft.LoraConfig: no key is silently ignored."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from burnish.config import ConfigError
from burnish.errors import did_you_mean
from burnish.files import irregular_in, read_regular

from .names import WHOLE_MODULES
from .private.peft import default_targets, targeted

if TYPE_CHECKING:  # settings import this module
    from .settings import TrainSettings

CONFIG = "adapter_config.json"
MAX_BYTES = 1 << 20
# keys about a config's origin, or how PEFT keeps an adapter in memory, that don't affect training; PEFT sets
# fan_in_fan_out itself, depending on the layer
INFORMATIONAL = frozenset(
    {
        "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "runtime_config",
        "fan_in_fan_out",
    }
)  # fmt: skip
# keys reproduced exactly when continuing, whatever their value: PEFT builds the layers from the adapter's config, and a
# merge applies them. Initialisation configs (such as eva_config) took effect before the adapter was saved
CONTINUED = frozenset(
    {
        "use_dora", "lora_bias", "layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save",
        "rank_pattern", "alpha_pattern", "trainable_token_indices", "ensure_weight_tying", "megatron_core",
        "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size",
    }
)  # fmt: skip
# other initialisations change the base's weights, so the adapter can't be merged onto the base
PLAIN_STARTS = (True, False, "gaussian", "eva")
TASK, TYPE, START = "task_type", "peft_type", "init_lora_weights"
Config = dict[str, Any]


def read(path: Path) -> Config:
    """Return the JSON object in a PEFT config file. Raises ConfigError if the file can't be read or isn't an object."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file is larger than {MAX_BYTES:,} bytes")
        content = json.loads(read_regular(path).decode("utf-8-sig"), object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the LoRA config can't be read: {why}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object with peft.LoraConfig's keys")
    return content


def adapter_path(settings: TrainSettings) -> Path:
    """Return the directory of the adapter to start from, given as a path or run id."""
    name = str(settings.lora.resume_adapter)
    places = [Path(name), Path(name) / "adapter", Path(settings.run.root) / name / "adapter"]
    found = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if found is None:
        raise ConfigError(
            f"lora.resume_adapter {name}: no adapter_config.json there, and no such run in {settings.run.root}/:"
            " set an adapter's directory or a run's id"
        )
    if faults := irregular_in(found):
        raise ConfigError([f"lora.resume_adapter {name}: {fault}" for fault in faults])
    return found


def start_notes(settings: TrainSettings) -> tuple[str, str]:
    """Return a note about the adapter that training starts from, and a warning about a new adapter's scale.

    Either may be empty.
    """
    lora = settings.lora
    if lora.resume_adapter:
        directory = adapter_path(settings)
        content = read(directory / CONFIG)
        kept = ", ".join(f"{key} {_json(content[key])}" for key in ("r", "lora_alpha") if key in content)
        return f"lora: training continues the adapter in {directory}" + (f" ({kept})" if kept else ""), ""
    scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    if scale >= 1:
        return "", ""
    return (
        "",
        f"the adapter's scale is {scale:.2g} (lora_alpha {lora.lora_alpha}, r {lora.r}): below 1 it learns little",
    )


def new_adapter(path: Path, section: type[BaseModel]) -> Config:
    """Return the settings (fields in `section`) from a PEFT config for a new adapter.

    A key without a setting is accepted if its value is PEFT's default with the same type (1 is not true) or empty
    (null, [], {}). Raises ConfigError listing every other key, its value and what is supported.
    """
    content = read(path)
    known = set(section.model_fields) - {"config_file", "resume_adapter"}
    faults = _kind_faults(path, content)
    for key, value in content.items():
        if key not in known | INFORMATIONAL | {TASK, TYPE}:
            why = WHOLE_MODULES if key == "modules_to_save" else "there is no setting for it"
            faults += _fault(path, key, value, why)
    values = {key: value for key, value in content.items() if key in known and value is not None}
    faults += _type_faults(path, values, section)
    if faults:
        raise ConfigError(faults)
    return values


def continued_faults(path: Path, section: type[BaseModel]) -> list[str]:
    """Return why training can't continue exactly from the adapter with this adapter_config.json."""
    try:
        content = read(path)
    except ConfigError as error:
        return list(error.faults)
    faults = _kind_faults(path, content)
    for key, value in content.items():
        if key == START and value is not None and not any(_same(value, plain) for plain in PLAIN_STARTS):
            faults.append(f"{path}: {key} is {_json(value)}, which changed the base's weights; those are not available")
        elif key not in INFORMATIONAL | CONTINUED | {TASK, TYPE, START, *section.model_fields}:
            faults += _fault(path, key, value, "training can't continue with it")
    return faults + _type_faults(path, continued(path, section), section)


def continued(path: Path, section: type[BaseModel]) -> Config:
    """Return a trained adapter's settings (fields in `section`); missing values are PEFT's defaults.

    target_modules is included only if it is a list: patterns and PEFT's own choice depend on the base (see `targets`).
    """
    content = read(path)
    names = [name for name in section.model_fields if name in defaults()]
    values = {name: defaults()[name] if content.get(name) is None else content[name] for name in names}
    if isinstance(values["target_modules"], list):
        values["target_modules"] = sorted(map(str, values["target_modules"]))
    elif values["target_modules"] != "all-linear":
        del values["target_modules"]
    return values


def targets(directory: Path, model: Any) -> list[str] | None:
    """Return the modules in `model` changed by the adapter in `directory`, as found by PEFT; None if there are none.

    Returns short names if they match exactly these modules, otherwise full names.
    """
    from peft import LoraConfig

    content = read(directory / CONFIG)
    chosen = content.get("target_modules") or default_targets(model.config.get_text_config().model_type)
    if chosen is None:
        return None
    names = ("exclude_modules", "layers_to_transform", "layers_pattern")
    config = LoraConfig(target_modules=chosen, **{name: content.get(name) for name in names})
    every = [name for name, _ in model.named_modules() if name]
    found = targeted(config, every)
    short = {name.rsplit(".", 1)[-1] for name in found}
    whole = {name for name in every if name.rsplit(".", 1)[-1] in short} == found
    return sorted(short if whole else found) or None


@cache
def defaults() -> Config:
    """Return peft.LoraConfig's fields and their defaults, as JSON values."""
    from peft import LoraConfig  # takes seconds, so import it only when a config is read

    config = LoraConfig()
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.value if isinstance(value, enum.Enum) else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> Config:
    """Return a JSON object from its pairs. Raises ValueError for a duplicate key, which would lose a value."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key '{next(key for key, count in counts.items() if count > 1)}' is given twice")
    return unique


def _kind_faults(path: Path, content: Config) -> list[str]:
    """Return errors for an unsupported task or adapter type; "CAUSAL LM" counts as CAUSAL_LM."""
    task, kind = content.get(TASK), content.get(TYPE)
    faults = []
    if task is not None and str(task).upper().replace(" ", "_").replace("-", "_") != "CAUSAL_LM":
        faults.append(f"{path}: {TASK} {task}: only CAUSAL_LM is supported")
    if kind is not None and str(kind).upper() != "LORA":
        faults.append(f"{path}: {TYPE} {kind}: only LORA is supported")
    return faults


def _fault(path: Path, key: str, value: Any, why: str) -> list[str]:
    """Return the error for a key without a setting; empty if the value has no effect."""
    if value is None:
        return []
    if key not in defaults():
        return [f"{path}: '{key}' is {_json(value)}: peft.LoraConfig has no such key{did_you_mean(key, defaults())}"]
    default = defaults()[key]
    if _same(value, default) or (value in ([], {}) and default in (None, [], {})):
        return []
    return [f"{path}: {key} is {_json(value)}: {why}; only {_json(default)}, PEFT's default, is supported"]


def _type_faults(path: Path, values: Config, section: type[BaseModel]) -> list[str]:
    try:
        section.model_validate(values)
    except ValidationError as error:
        reasons: dict[str, list[str]] = {}
        for item in error.errors():
            reasons.setdefault(str(item["loc"][0]), []).append(
                str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
            )
        return [f"{path}: {key} is {_json(values.get(key))}: it {' or '.join(reasons[key])}" for key in reasons]
    return []


def _same(a: Any, b: Any) -> bool:
    """Return whether two JSON values are equal, including types: 1 is not true, and 0 is not false."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and bool(a == b)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
