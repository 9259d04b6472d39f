"""Settings under the names that other tools give them: understood where they mean a setting here, else a right hint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# from the value that was given: our settings by dotted key (none: there is nothing to do), or a hint
Meaning = dict[str, Any] | str
Names = Mapping[str, Callable[[Any], Meaning]]


def same(key: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name that is only another one for `key`."""
    return lambda value: {key: value}


def hint(text: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name that has no setting here."""
    return lambda value: text


def unless(nothing: tuple[Any, ...], text: str) -> Callable[[Any], Meaning]:
    """Return the meaning of a name that asks for nothing with these values, and is a hint with others.

    The words None and null mean None: Python's settings are copied, and YAML reads the first as text.
    """

    def means(value: Any) -> Meaning:
        value = None if isinstance(value, str) and value.lower() in ("none", "null") else value
        return {} if any(value is one or (value == one and type(value) is type(one)) for one in nothing) else text

    return means


def meaning(names: Names, key: str, value: Any) -> Meaning | None:
    """Return what a setting of another tool means, whatever section it was put in; None where its name isn't known."""
    found = names.get(key.rpartition(".")[2])
    return None if found is None else found(value)
