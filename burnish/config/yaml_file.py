"""Read untrusted YAML files in bounded time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..files import read_regular

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # each use of an alias counts


class YamlError(Exception):
    """Raised when a file is not valid YAML, or exceeds the limits."""


def read_yaml(path: Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Parse a YAML file. Raises FileNotFoundError, or YamlError stating the problem."""
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise YamlError(f"can't be read: {reason}") from None
    return parse_yaml(text, loader)


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Parse YAML text; return None if it is empty. Raises YamlError stating the problem."""
    try:
        node = yaml.compose(text, loader)
        if node is None:
            return None
        check_size(node)
        return loader("").construct_document(node)
    except RecursionError:
        raise YamlError("can't be read: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2026-99-99 raises ValueError
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from None


def check_size(node: yaml.Node) -> None:
    """Raise YamlError if a document is recursive, or too large with its aliases expanded."""
    sizes: dict[int, int] = {}

    def size(part: yaml.Node) -> int:
        known = sizes.get(id(part))
        if known is not None:
            if known == 0:
                raise YamlError("not valid YAML: an alias refers to a node that contains it")
            return known
        sizes[id(part)] = 0
        total = 1
        if isinstance(part, yaml.SequenceNode):
            total += sum(map(size, part.value))
        elif isinstance(part, yaml.MappingNode):
            total += sum(size(key) + size(value) for key, value in part.value)
        if total > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES:,} values")
        sizes[id(part)] = total
        return total

    size(node)
