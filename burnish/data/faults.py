"""Error messages for unusable files, rows and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError, nearest

_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
_NAMES |= {list: "a list", dict: "an object"}


class DataError(UserError):
    """Raised when a data file can't be read or contains invalid rows; holds all of the file's errors."""


@dataclass(frozen=True)
class Undecoded:
    """A cell that was not decoded to a Python value, such as a date or an image in a Parquet file."""

    type: str


def kind(value: Any) -> str:
    """Return a value's type in JSON terms: "a number", "null", "an object"."""
    if isinstance(value, Undecoded):
        return f"a value of type {value.type}"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def missing(key: str, row: dict[str, Any], known: frozenset[str]) -> str:
    """Return the message for a missing key, with the row's nearest unknown key, or else all its keys."""
    present = [name for name, value in row.items() if value is not None]
    near = nearest(key, [name for name in present if name not in known])
    if near:
        return f"no '{key}'; it has '{near}': did you mean '{key}'?"
    return f"no '{key}' (it has {', '.join(repr(name) for name in present[:8]) or 'no keys'})"
