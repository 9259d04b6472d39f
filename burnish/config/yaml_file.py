"""A YAML file as data: read in bounded time and memory, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..files import read_regular

MOST_BYTES = 1 << 20
MOST_NODES = 100_000  # with what aliases repeat


class YamlError(Exception):
    """A file that is not YAML, or more than is read."""


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value of a YAML file. Raises FileNotFoundError, and YamlError with what is wrong."""
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise YamlError(f"can't be read: {reason}") from None
    return parse_yaml(text, loader)


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the value of a YAML text, None for an empty one. Raises YamlError with what is wrong."""
    try:
        node = yaml.compose(text, loader)
        if node is None:
            return None
        check_size(node)
        return loader("").construct_document(node)
    except RecursionError:
        raise YamlError("can't be read: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-99-99 is a ValueError
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from None


def check_size(node: yaml.Node) -> None:
    """Raise YamlError where a document is too large once its aliases are written out, or holds itself."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node) -> int:
        known = sizes.get(id(part))
        if known is not None:
            if known == 0:
                raise YamlError("not valid YAML: an alias stands for what holds it")
            return known
        sizes[id(part)] = 0
        total = 1
        if isinstance(part, yaml.SequenceNode):
            total += sum(map(size, part.value))
        elif isinstance(part, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in part.value)
        if total > MOST_NODES:
            raise YamlError(f"it holds more than {MOST_NODES:,} values")
        sizes[id(part)] = total
        return total

    size(node)
