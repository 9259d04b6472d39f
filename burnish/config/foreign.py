"""Other tools' setting names: translated if there is an equivalent setting, otherwise rejected with a hint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# maps a value to our settings by dotted key (empty: nothing to do), or to a hint
Meaning = dict[str, Any] | str
Names = Mapping[str, Callable[[Any], Meaning]]


def same(key: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name that is a synonym of `key`."""
    return lambda value: {key: value}


def hint(text: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name without an equivalent setting."""
    return lambda value: text


def unless(nothing: tuple[Any, ...], text: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name that has no effect with these values and produces a hint with any other.

    The words None and null both mean None: people copy settings from Python, and YAML parses None as text.
    """

    def means(value: Any) -> Meaning:
        value = None if isinstance(value, str) and value.lower() in ("none", "null") else value
        return {} if any(value is one or (value == one and type(value) is type(one)) for one in nothing) else text

    return means


def meaning(names: Names, key: str, value: Any) -> Meaning | None:
    """Return the meaning of a different tool's setting in any section; None if the name is unknown."""
    found = names.get(key.rpartition(".")[2])
    return None if found is None else found(value)
