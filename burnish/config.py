"""Settings: YAML file < environment < command line, strict at every edge, every fault named with where it stands."""

from __future__ import annotations

import argparse
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticUndefined

from .console import say
from .errors import UserError, did_you_mean
from .foreign import Names, meaning

ENV_PREFIX = "BURNISH_"
FILE, ENVIRONMENT, COMMAND_LINE = range(3)
STAGES = ("TRAIN", "EXPORT", "SERVE")
# variables under our prefix that are no stage's setting
OTHER_VARIABLES = frozenset({"BURNISH_CACHE", "BURNISH_LOG_FORMAT", "BURNISH_COMMIT"})


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or out of bounds."""


@dataclass(frozen=True)
class Given:
    """One value that the user gave, and where: "configs/x.yaml:12", "BURNISH_TRAIN_LORA__R" or "--lora.r".

    `strength`: a source beats those of less strength (FILE, ENVIRONMENT, COMMAND_LINE).
    """

    value: Any
    where: str
    strength: int = 0


Flat = dict[tuple[str, ...], Given]


class Strict(BaseModel):
    """Base of every settings class: unknown keys and wrong types are errors, values never change.

    `foreign` are other tools' names that the whole settings understand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    foreign: ClassVar[Names] = {}

    @classmethod
    def settle(cls, flat: Flat) -> list[str]:
        """Add to what was given what it brings along, before it is validated; returns what is to be said of it."""
        return []


Settings = TypeVar("Settings", bound=Strict)


class _Loader(yaml.SafeLoader):
    """YAML with floats as people write them (5e-4 is a number, as in YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf setting as (key path, pydantic FieldInfo), nested sections included."""
    for name, info in model.model_fields.items():
        if section := _section(info.annotation):
            yield from fields(section, (*prefix, name))
        else:
            yield (*prefix, name), info


def load(
    model: type[Settings],
    stage: str,
    config: str | Path | None,
    overrides: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Settings:
    """Merge the three sources and validate them.

    `overrides` are the command line's, by dotted key. Raises ConfigError with all faults of all sources at once.
    """
    reader = _Reader({".".join(path): info for path, info in fields(model)}, model.foreign)
    flat: Flat = {}
    if config is not None:
        flat.update(reader.yaml(Path(config)))
    flat.update(reader.environment(stage, environ))
    flat.update(reader.command_line(overrides))
    faults = reader.faults
    for note in (*reader.notes, *model.settle(flat)):
        say(f"config: {note}")
    try:
        settings = model.model_validate(_nest(flat))
    except ValidationError as error:
        raise ConfigError(faults + _faults(error, flat)) from None
    if faults:
        raise ConfigError(faults)
    return settings


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    stage: str,
    name: str,
    text: str,
    model: type[BaseModel],
) -> argparse.ArgumentParser:
    """Add one command of a stage (python -m train run), with every setting as an option; returns its parser."""
    command = commands.add_parser(
        name,
        help=text,
        description=text,
        allow_abbrev=False,
        usage=f"python -m {stage} {name} [--config FILE] [--section.key VALUE ...]",
        epilog=f"Sources: --config, then {ENV_PREFIX}{stage.upper()}_* variables, then the command line;"
        " the last is strongest.",
    )
    add_arguments(command, model, stage)
    return command


def add_arguments(parser: argparse.ArgumentParser, model: type[BaseModel], stage: str) -> None:
    """Give `parser` --config and one --section.key for every setting, each with its meaning and default."""
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the settings below")
    groups: dict[str, Any] = {}
    for path, info in fields(model):
        title = path[0] if len(path) > 1 else "general"
        group = groups.setdefault(title, parser.add_argument_group(title))
        default = info.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"default: {_show(default)}"
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
    """Parse a command line made by `add_arguments` and load the settings; unknown options name the nearest one."""
    known = {".".join(path) for path, _ in fields(model)}
    options, rest = parser.parse_known_args([_underscored(word, known) for word in argv])
    theirs, rest = _foreign_options(rest, model.foreign)
    if rest:
        names = {f"--{key}" for key in known} | {"--config"}
        raise ConfigError(
            [
                f"command line: unknown option '{word}'" + did_you_mean(word.split("=")[0], names)
                if word.startswith("-")
                else f"command line: unexpected argument '{word}'"
                for word in rest
                if word.startswith("-") or rest[0] == word
            ]
        )
    overrides = {**{key: value for key, value in vars(options).items() if key in known}, **theirs}
    return load(model, stage, getattr(options, "config", None), overrides, os.environ), options


def _foreign_options(rest: Sequence[str], foreign: Names) -> tuple[dict[str, str], list[str]]:
    """Take other tools' settings out of what wasn't understood: --name value, --name=value, --name alone (true)."""
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


def _underscored(word: str, known: set[str]) -> str:
    """Let --allow-unproven mean --allow_unproven: names are fields' names, but hands type dashes."""
    name, equals, value = word.partition("=")
    plain = name.removeprefix("--").replace("-", "_")
    return f"--{plain}{equals}{value}" if word.startswith("--") and plain in known else word


def type_name(annotation: Any) -> str:
    """Return a short name of a setting's type for help and errors, such as INT or all-linear|LIST."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return "|".join(type_name(part) for part in arguments if part is not type(None))
    if origin is typing.Literal:
        return "|".join(str(value).lower() if isinstance(value, bool) else str(value) for value in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    return str(getattr(origin or annotation, "__name__", annotation)).upper()


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _show(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _accepts(annotation: Any, kind: type) -> bool:
    """Whether a value of `kind` may stand for this annotation: itself, or a part of its union."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_accepts(part, kind) for part in typing.get_args(annotation))
    return annotation is kind or origin is kind


def _words(annotation: Any) -> frozenset[str]:
    """Return the words that a setting may be; those that may only stand in a list are not among them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return frozenset(word for word in typing.get_args(annotation) if isinstance(word, str))
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return frozenset().union(*map(_words, typing.get_args(annotation)))
    return frozenset()


def _parse(text: Any, annotation: Any) -> Any:
    """Read a string from the environment or the command line as the setting's type would be written in YAML."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("none", "null") and _accepts(annotation, type(None)):
        return None
    if _accepts(annotation, str) or text in _words(annotation):
        return text  # a word as it is: YAML 1.1 reads "off" as false
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        return text
    if _accepts(annotation, list) and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value


class _Reader:
    """Collects what each source gives; faults and notes of all of them come together."""

    def __init__(self, known: Mapping[str, Any], foreign: Names) -> None:
        self.known, self.foreign = known, foreign
        self.faults: list[str] = []
        self.notes: list[str] = []

    def yaml(self, path: Path) -> Flat:
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{path}: the config file can't be read: {reason}") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
        flat: Flat = {}
        if node is not None:
            self._walk(node, (), path, flat)
        return flat

    def _walk(self, node: yaml.Node, prefix: tuple[str, ...], path: Path, flat: Flat) -> None:
        """Collect the leaves of a YAML mapping with their lines; unknown and repeated keys become faults."""
        dotted = ".".join(prefix)
        if not isinstance(node, yaml.MappingNode):
            self.faults.append(
                f"{path}:{node.start_mark.line + 1}: {dotted or 'the file'} must be a mapping of settings"
            )
            return
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key, where = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}"
            full = f"{dotted}.{key}" if dotted else key
            if key in seen:
                self.faults.append(f"{where}: '{full}' is given twice")
                continue
            seen.add(key)
            if any(name.startswith(f"{full}.") for name in self.known):
                self._walk(value_node, (*prefix, key), path, flat)
            elif full in self.known:
                self._put(flat, full, Given(_value(value_node, self.known[full].annotation), where, FILE), where)
            elif not self._translated(flat, full, Given(_value(value_node, Any), where, FILE)):
                self.faults.append(f"{where}: unknown key '{full}'{_hint(full, self.known)}")

    def environment(self, stage: str, environ: Mapping[str, str]) -> Flat:
        prefix = f"{ENV_PREFIX}{stage.upper()}_"
        variables = {f"{prefix}{key.replace('.', '__').upper()}": key for key in self.known}
        others = tuple(f"{ENV_PREFIX}{name}_" for name in STAGES if name != stage.upper())
        flat: Flat = {}
        for name, text in sorted(environ.items()):
            if not name.startswith(ENV_PREFIX) or name.startswith(others) or name in OTHER_VARIABLES:
                continue
            key = variables.get(name, name.removeprefix(prefix).lower().replace("__", "."))
            if name in variables:
                self._put(flat, key, Given(_parse(text, self.known[key].annotation), name, ENVIRONMENT), name)
            elif not self._translated(flat, key, Given(_parse(text, Any), name, ENVIRONMENT)):
                told = did_you_mean(name, {*variables, *OTHER_VARIABLES})
                self.faults.append(f"environment: unknown variable '{name}'{told}")
        return flat

    def command_line(self, overrides: Mapping[str, Any]) -> Flat:
        """Read the command line's, by dotted key; other tools' names among them."""
        flat: Flat = {}
        for key, value in overrides.items():
            where = f"--{key}"
            if key in self.known:
                self._put(flat, key, Given(_parse(value, self.known[key].annotation), where, COMMAND_LINE), where)
            else:
                self._translated(flat, key, Given(_parse(value, Any), where, COMMAND_LINE))
        return flat

    def _translated(self, flat: Flat, key: str, given: Given) -> bool:
        """Put what another tool's setting means; False where its name isn't known."""
        meant = meaning(self.foreign, key, given.value)
        if meant is None:
            return False
        if isinstance(meant, str):
            self.faults.append(f"{given.where}: '{key}' is not a setting here: {meant}")
            return True
        for ours, value in meant.items():
            self._put(flat, ours, Given(value, given.where, given.strength), given.where)
            if value != given.value or not key.endswith(ours.rpartition(".")[2]):
                self.notes.append(f"{given.where}: {key} {_show(given.value)} is {ours}: {_show(value)}")
        return True

    def _put(self, flat: Flat, key: str, given: Given, where: str) -> None:
        """Put a value; two names for one setting must say the same."""
        path = tuple(key.split("."))
        before = flat.get(path)
        if before is not None and before.value != given.value and before.where != where:
            self.faults.append(f"{where}: {key} is {_show(given.value)} here, {_show(before.value)} by {before.where}")
        flat[path] = given


def _value(node: yaml.Node, annotation: Any) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.value in _words(annotation):
        return node.value
    return _Loader("").construct_object(node, deep=True)


def _hint(full: str, known: Mapping[str, Any]) -> str:
    """Suggest a key from the same section, or the same key from another section."""
    section, _, name = full.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    siblings = [key for key in known if key.startswith(f"{section}.")] if section else None
    return did_you_mean(full, siblings or {*known, *(key.split(".")[0] for key in known)})


def _nest(flat: Flat) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, given in flat.items():
        section = nested
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = given.value
    return nested


def _faults(error: ValidationError, flat: Flat) -> list[str]:
    """Say each faulty setting in one line; the branches of a union become one "this or that"."""
    messages: dict[str, list[str]] = {}
    for item in error.errors():
        location = tuple(str(part) for part in item["loc"])
        path = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in flat), None)
        if path is not None:
            head = f"{flat[path].where}: {'.'.join(path)} is {flat[path].value!r}"
        elif item["type"] == "missing":
            key = ".".join(location)
            head = f"setting '{key}' is required: give it in the config file, or as --{key}"
        else:
            head = ".".join(location) or "settings"
        text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        messages.setdefault(head, []).extend([] if item["type"] == "missing" else [text])
    return [
        f"{head}: it {' or '.join(texts)}" if texts and texts[0].startswith("should") else ": ".join([head, *texts])
        for head, texts in messages.items()
    ]
