"""What is said of a file, a row or a value that can't be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError, nearest

_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
_NAMES |= {list: "a list", dict: "an object"}


class DataError(UserError):
    """A data file that can't be read, or rows in it that are not what was expected: every fault of the file."""


@dataclass(frozen=True)
class Undecoded:
    """A cell that is there and was not made into a Python value, such as a date or an image of a Parquet file."""

    type: str


def kind(value: Any) -> str:
    """Return what a value is, in the words of JSON: "a number", "null", "an object"."""
    if isinstance(value, Undecoded):
        return f"of type {value.type}"
    return _NAMES.get(type(value), f"a {type(value).__name__}")


def missing(key: str, row: dict[str, Any], known: frozenset[str]) -> str:
    """Return the fault of a key that is not there: with a near one that is, else with all that are."""
    present = [name for name, value in row.items() if value is not None]
    near = nearest(key, [name for name in present if name not in known])
    if near:
        return f"no '{key}'; '{near}' is near, did you mean that?"
    return f"no '{key}' (it has {', '.join(repr(name) for name in present[:8]) or 'no keys'})"
