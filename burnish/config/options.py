"""Command lines: one option per setting, generated from the setting's type and description."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from .foreign import Names
from .loading import load
from .schema import ConfigError, Settings, fields, show, type_name
from .sources import ENV_PREFIX, key_hint


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    stage: str,
    name: str,
    text: str,
    model: type[BaseModel],
) -> argparse.ArgumentParser:
    """Add a stage's command (python -m train run) with every setting as an option; return its parser."""
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        allow_abbrev=False,
        usage=f"python -m {stage} {name} [--config FILE] [--section.key VALUE ...]",
        epilog=f"Sources: --config, then {ENV_PREFIX}{stage.upper()}_* variables, then the command line;"
        " the last one wins.",
    )
    add_arguments(command, model, stage)
    return command


def add_arguments(parser: argparse.ArgumentParser, model: type[BaseModel], stage: str) -> None:
    """Add --config and one --section.key per setting to `parser`, with description and default."""
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the settings below")
    groups: dict[str, Any] = {}
    for path, info in fields(model):
        title = path[0] if len(path) > 1 else "general"
        group = groups.setdefault(title, parser.add_argument_group(title))
        default = info.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"default: {show(default)}"
        variable = f"{ENV_PREFIX}{stage.upper()}_{'__'.join(path).upper()}"
        text = f"{info.description or ''} [{shown}; {variable}]".replace("%", "%%")
        group.add_argument(
            f"--{'.'.join(path)}",
            metavar=type_name(info.annotation),
            dest=".".join(path),
            default=argparse.SUPPRESS,
            help=text,
            **({"nargs": "?", "const": "true"} if info.annotation is bool else {}),
        )


def parse_arguments(
    parser: argparse.ArgumentParser, model: type[Settings], stage: str, argv: Sequence[str]
) -> tuple[Settings, argparse.Namespace]:
    """Parse the options added by `add_arguments` and load the settings. Raises ConfigError for unknown options."""
    known = {".".join(path) for path, _ in fields(model)}
    options, rest = parser.parse_known_args([_underscored(word, known) for word in argv])
    theirs, rest = _foreign_options(rest, model.foreign)
    if rest:
        raise ConfigError(
            [
                f"command line: unknown option '{word}'" + key_hint(_name(word), {*known, "config"}, "--")
                if word.startswith("-")
                else f"command line: unexpected argument '{word}'"
                for word in rest
                if word.startswith("-") or rest[0] == word
            ]
        )
    overrides = {**{key: value for key, value in vars(options).items() if key in known}, **theirs}
    return load(model, stage, getattr(options, "config", None), overrides, os.environ), options


def _foreign_options(rest: Sequence[str], foreign: Names) -> tuple[dict[str, str], list[str]]:
    """Split unknown words into other tools' settings (--name value, --name=value, or --name for true) and the rest."""
    found: dict[str, str] = {}
    left: list[str] = []
    words = list(rest)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--") or name.removeprefix("--").rpartition(".")[2] not in foreign:
            left.append(f"{name}{equals}{value}")
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        found[name.removeprefix("--")] = value
    return found, left


def _name(option: str) -> str:
    """Return an option's key: --lora.lora-alpha=3 is lora.lora_alpha."""
    return option.partition("=")[0].lstrip("-").replace("-", "_")


def _underscored(word: str, known: set[str]) -> str:
    """Accept --allow-unproven for --allow_unproven: option names are field names, but users type hyphens."""
    name, equals, value = word.partition("=")
    plain = name.removeprefix("--").replace("-", "_")
    return f"--{plain}{equals}{value}" if word.startswith("--") and plain in known else word
