"""docs/settings.md: every setting of the commands, from the settings classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from burnish.config.schema import Strict, fields, section, show
from burnish.config.sources import ENV_PREFIX, OTHER_VARIABLES
from export.settings import ExportSettings
from serve.batch.settings import GenerateSettings
from serve.evaluate.settings import EvaluateSettings
from serve.settings import ServeSettings
from train.settings import TrainSettings

from .markdown import table, type_text

STAGES: dict[str, type[Strict]] = {
    "train": TrainSettings,
    "export": ExportSettings,
    "serve": ServeSettings,
    "generate": GenerateSettings,
    "evaluate": EvaluateSettings,
}
HEAD = ("setting", "type", "default", "description", "environment variable")
INTRO = """\
# Settings

Every setting of training, export, serving and answering files: its key, type, default, description and
environment variable. This page is generated from the code by `make reference`; `python -m train run --help` prints the
same.

A setting can come from three places. Later ones take precedence:

1. a YAML file, `--config FILE` or `make ... CONFIG=FILE`:

       lora:
         r: 32

2. an environment variable: `BURNISH_TRAIN_LORA__R=32`;
3. the command line: `python -m train run --lora.r 32` or `make train SET="--lora.r 32"`.

An unknown key is an error that names the nearest one. On the command line and in the environment a list is written
`a,b` or `[a, b]`, and `none` unsets a setting. Training and export also understand
[names of other tools](train-on-a-gpu.md#names-of-other-tools).
"""


def page() -> str:
    """Return docs/settings.md as text."""
    return "\n".join([INTRO, *(_stage(name, model) for name, model in STAGES.items()), _others()])


def _stage(name: str, model: type[BaseModel]) -> str:
    parts = [f"## {name}\n\n{_summary(model)}\n"]
    general = [(path, info) for path, info in fields(model) if len(path) == 1]
    if general:
        parts.append(_table(name, general))
    for key, info in model.model_fields.items():
        if inner := section(info.annotation):
            parts.append(f"### {name}: {key}\n\n{_summary(inner)}\n")
            parts.append(_table(name, list(fields(inner, (key,)))))
    return "\n".join(parts)


def _others() -> str:
    rows = [(f"`{name}`", text) for name, text in OTHER_VARIABLES.items()]
    return f"## Other environment variables\n\n{table(('variable', 'description'), rows)}\n"


def _table(stage: str, settings: Sequence[tuple[tuple[str, ...], Any]]) -> str:
    return table(HEAD, [_row(stage, path, info) for path, info in settings]) + "\n"


def _row(stage: str, path: tuple[str, ...], info: Any) -> tuple[str, ...]:
    variable = f"{ENV_PREFIX}{stage.upper()}_{'__'.join(path).upper()}"
    kind = type_text(info.annotation, info.metadata)
    return f"`{'.'.join(path)}`", kind, _default(info), info.description or "", f"`{variable}`"


def _default(info: Any) -> str:
    """Return a setting's default as written on the command line."""
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, list | dict):
        return f"`{','.join(map(str, value))}`" if value else "empty"
    return "none" if value is None else f"`{show(value)}`"


def _summary(model: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring on one line."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
