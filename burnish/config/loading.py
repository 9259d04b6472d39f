"""Merge the sources into validated settings, reporting all errors at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..console import say
from .schema import ConfigError, Flat, Settings, fields
from .sources import Reader


def load(
    model: type[Settings],
    stage: str,
    config: str | Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Settings:
    """Merge the three sources and validate them.

    `overrides` are the command-line settings, by dotted key. Raises ConfigError with the errors from all sources.
    """
    reader = Reader({".".join(path): info for path, info in fields(model)}, model.foreign)
    flat: Flat = {}
    if config is not None:
        flat.update(reader.file(Path(config)))
    flat.update(reader.environment(stage, environ))
    flat.update(reader.command_line(overrides))
    faults = reader.faults
    try:
        notes = model.settle(flat)
    except ConfigError as error:  # report these with the other errors
        notes, faults = [], [*faults, *error.faults]
    for note in (*reader.notes, *notes):
        say(f"config: {note}")
    try:
        settings = model.model_validate(_nest(flat))
    except ValidationError as error:
        required = [".".join(path) for path, info in fields(model) if info.is_required()]
        raise ConfigError(faults + _faults(error, flat, required)) from None
    if faults:
        raise ConfigError(faults)
    return settings


def _nest(flat: Flat) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, given in flat.items():
        section = nested
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = given.value
    return nested


def _faults(error: ValidationError, flat: Flat, required: Sequence[str]) -> list[str]:
    """Return one line per invalid setting; union branches are joined with "or"."""
    messages: dict[str, list[str]] = {}
    for item in error.errors():
        location = tuple(str(part) for part in item["loc"])
        path = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in flat), None)
        if path is not None:
            head = f"{flat[path].where}: {'.'.join(path)} is {flat[path].value!r}"
        elif item["type"] == "missing":
            key = ".".join(location)
            key = next((name for name in required if name.startswith(f"{key}.")), key)  # the whole section is missing
            head = f"setting '{key}' is required: set it in the config file, or with --{key}"
        else:
            head = ".".join(location) or "settings"
        text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        messages.setdefault(head, []).extend([] if item["type"] == "missing" else [text])
    return [
        f"{head}: it {' or '.join(texts)}" if texts and texts[0].startswith("should") else ": ".join([head, *texts])
        for head, texts in messages.items()
    ]
