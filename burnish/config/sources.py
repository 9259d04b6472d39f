"""Read settings from a YAML file, the environment and the command line, accepting other tools' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import KNOWN, nearest
from ..files import read_regular
from .foreign import Names, meaning
from .schema import COMMAND_LINE, ENVIRONMENT, FILE, ConfigError, Flat, Given, accepts, show, words
from .yaml_file import YamlError, check_size

ENV_PREFIX = "BURNISH_"
STAGES = ("TRAIN", "EXPORT", "SERVE", "GENERATE", "EVALUATE")
# variables with our prefix that are not stage settings, and what they do
OTHER_VARIABLES = {
    "BURNISH_CACHE": "directory for llama.cpp builds, bases (dequantized, or GGUF for evaluations) and load tests;"
    " default: ~/.cache/burnish",
    "BURNISH_LOG_FORMAT": "`json` logs JSON lines on a terminal as well",
    "BURNISH_COMMIT": "commit reported in records and by `/version` if there is no git clone (set in images)",
}


class _Loader(yaml.SafeLoader):
    """YAML with floats in common notation (5e-4 is a number, as in YAML 1.2)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse(text: Any, annotation: Any) -> Any:
    """Parse a string from the environment or the command line as YAML, guided by the setting's type."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("none", "null") and accepts(annotation, type(None)):
        return None
    if accepts(annotation, str) or text in words(annotation):
        return text  # not parsed: YAML 1.1 reads "off" as false
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        value = text  # "*" and "@name" are special in YAML
    if accepts(annotation, list) and not isinstance(value, (list, dict)):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value


class Reader:
    """Reads the sources and collects errors and notes."""

    def __init__(self, known: Mapping[str, Any], foreign: Names) -> None:
        self.known, self.foreign = known, foreign
        self.faults: list[str] = []
        self.notes: list[str] = []

    def file(self, path: Path) -> Flat:
        """Read a YAML file. Raises ConfigError if it can't be read as YAML."""
        try:
            node = yaml.compose(read_regular(path).decode("utf-8"), _Loader)
            if node is not None:
                check_size(node)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(f"{path}: the config file can't be read: {reason}") from None
        except (YamlError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ConfigError(f"{path}: the config file can't be read: {reason}") from None
        except yaml.YAMLError as error:
            raise _not_yaml(path, error) from None
        flat: Flat = {}
        if node is not None:
            try:
                self._walk(node, (), path, flat)
            except (yaml.YAMLError, ValueError) as error:  # a value not allowed by its tag
                raise _not_yaml(path, error) from None
        return flat

    def _walk(self, node: yaml.Node, prefix: tuple[str, ...], path: Path, flat: Flat) -> None:
        """Collect the leaves of a YAML mapping with their line numbers; unknown and duplicate keys become errors."""
        dotted = ".".join(prefix)
        if not isinstance(node, yaml.MappingNode):
            self.faults.append(
                f"{path}:{node.start_mark.line + 1}: {dotted or 'the file'}: expected a mapping of settings"
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
                self.faults.append(f"{where}: unknown key '{full}'{key_hint(full, self.known)}")

    def environment(self, stage: str, environ: Mapping[str, str]) -> Flat:
        """Read the environment variables with the stage's prefix."""
        prefix = f"{ENV_PREFIX}{stage.upper()}_"
        variables = {f"{prefix}{key.replace('.', '__').upper()}": key for key in self.known}
        others = tuple(f"{ENV_PREFIX}{name}_" for name in STAGES if name != stage.upper())
        flat: Flat = {}
        for name, text in sorted(environ.items()):
            if not name.startswith(ENV_PREFIX) or name.startswith(others) or name in OTHER_VARIABLES:
                continue
            key = variables.get(name, name.removeprefix(prefix).lower().replace("__", "."))
            if name in variables:
                self._put(flat, key, Given(parse(text, self.known[key].annotation), name, ENVIRONMENT), name)
            elif not self._translated(flat, key, Given(parse(text, Any), name, ENVIRONMENT)):
                self.faults.append(f"environment: unknown variable '{name}'{_variable_hint(name, prefix, variables)}")
        return flat

    def command_line(self, overrides: Mapping[str, Any]) -> Flat:
        """Read the command-line settings, by dotted key, including other tools' names."""
        flat: Flat = {}
        for key, value in overrides.items():
            where = f"--{key}"
            if key in self.known:
                self._put(flat, key, Given(parse(value, self.known[key].annotation), where, COMMAND_LINE), where)
            elif not self._translated(flat, key, Given(parse(value, Any), where, COMMAND_LINE)):
                self.faults.append(f"{where}: unknown key{key_hint(key, self.known)}")
        return flat

    def _translated(self, flat: Flat, key: str, given: Given) -> bool:
        """Add the equivalents of a different tool's setting; return False if its name is unknown."""
        meant = meaning(self.foreign, key, given.value)
        if meant is None:
            return False
        if isinstance(meant, str):
            self.faults.append(f"{given.where}: '{key}' is not a Burnish setting: {meant}")
            return True
        for ours, value in meant.items():
            self._put(flat, ours, Given(value, given.where, given.strength), given.where)
            if value != given.value or not key.endswith(ours.rpartition(".")[2]):
                self.notes.append(f"{given.where}: {key} {show(given.value)} means {ours}: {show(value)}")
        return True

    def _put(self, flat: Flat, key: str, given: Given, where: str) -> None:
        """Add a value; a conflict with another name for the same setting is an error."""
        path = tuple(key.split("."))
        before = flat.get(path)
        if before is not None and before.value != given.value and before.where != where:
            self.faults.append(f"{where}: {key} is {show(given.value)}, but {show(before.value)} by {before.where}")
        flat[path] = given


def _not_yaml(path: Path, error: Exception) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    return ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}")


def _value(node: yaml.Node, annotation: Any) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.value in words(annotation):
        return node.value
    return _Loader("").construct_object(node, deep=True)


def _variable_hint(name: str, prefix: str, variables: Collection[str]) -> str:
    """Return "; did you mean 'X'?" for the nearest variable, ignoring the shared prefix."""
    start = prefix if name.startswith(prefix) else ""
    known = {variable.removeprefix(start): variable for variable in (*variables, *OTHER_VARIABLES)}
    near = nearest(name.removeprefix(start), known)
    return f"; did you mean '{known[near]}'?" if near else "; --help lists them"


def key_hint(full: str, known: Collection[str], prefix: str = "") -> str:
    """Return "; did you mean 'x'?" for the nearest key, preferably in the same section, else the known keys.

    Keys are compared without their sections. The known keys are the section's keys, or the section names.
    """
    section, _, name = full.rpartition(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean '{prefix}{elsewhere[0]}'?"
    siblings = [key for key in known if section and key.startswith(f"{section}.")]
    names = {key.rpartition(".")[2]: key for key in siblings or known}
    if near := nearest(name, [*names, *({key.split(".")[0] for key in known} if not section else ())]):
        return f"; did you mean '{prefix}{names.get(near, near)}'?"
    if siblings:
        return f"{KNOWN}{', '.join(sorted(siblings))}"
    sections = sorted({key.split(".")[0] for key in known if "." in key})
    plain = sorted(f"{prefix}{key}" for key in known if "." not in key)
    there = [*plain, f"the sections {', '.join(sections)} (--help lists their settings)"] if sections else plain
    return f"{KNOWN}{', '.join(there)}"
