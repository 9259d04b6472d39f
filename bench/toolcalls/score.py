"""Score calls by their syntax tree, with the rules of the Berkeley Function-Calling Leaderboard for Python.

A call is right if it names the expected function, gives every required parameter and no unknown one, and each value has
the declared type and is among the accepted values. Strings are compared without case, spaces and some punctuation. A
parameter may be left out only if "" is among its accepted values. Several calls may be in any order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .questions import IRRELEVANCE, Question

Given = Mapping[str, Any]
PYTHON: Mapping[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
NESTED = ("array", "tuple")
_IGNORED = re.compile(r"[ ,./\-_*^]")


def right(question: Question, calls: Sequence[tuple[str, Given]]) -> bool:
    """Return whether the calls (name, arguments) answer the question."""
    if question.category == IRRELEVANCE:
        return not calls
    return not fault(question, calls)


def fault(question: Question, calls: Sequence[tuple[str, Given]]) -> str:
    """Return the error in the calls that answer a question, or ""."""
    if len(calls) != len(question.truth):
        return f"expected {len(question.truth)} calls, got {len(calls)}"
    known = {function["name"]: function["parameters"] for function in question.functions}
    left = list(calls)
    for expected in question.truth:
        name, accepted = next(iter(expected.items()))
        wrong = ""
        for given in left:
            if not (wrong := _call_fault(given, name, accepted, known[name])):
                left.remove(given)
                break
        else:
            return wrong
    return ""


def _call_fault(
    given: tuple[str, Given], name: str, accepted: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any]
) -> str:
    called, arguments = given
    if called != name:
        return f"expected a call of {name}, got {called}"
    for required in parameters.get("required") or ():
        if required not in arguments:
            return f"{name}: '{required}' is missing"
    for key, value in arguments.items():
        if key not in parameters["properties"] or key not in accepted:
            return f"{name}: '{key}' is not expected"
        if not _accepts(value, accepted[key], parameters["properties"][key]):
            return f"{name}: '{key}': expected one of {list(accepted[key])}, got {value!r}"
    for key, values in accepted.items():
        if key not in arguments and "" not in values:
            return f"{name}: '{key}' is missing"
    return ""


def _accepts(value: Any, accepted: Sequence[Any], declared: Mapping[str, Any]) -> bool:
    """Return whether a value is accepted and has the declared type, or else the type of the accepted values."""
    kind = PYTHON[declared["type"]]
    if kind is float and type(value) is int:
        value = float(value)
    sample = next((option for option in accepted if option != ""), None)
    if type(value) is kind:
        items = declared.get("items")
        if declared["type"] in NESTED and isinstance(items, Mapping) and not _items_fit(value, accepted, items):
            return False
        variable = sample is not None and type(sample) is not kind
    elif sample is not None and type(value) is type(sample):
        variable = True
    else:
        return False
    if not variable:
        if kind is dict:
            return any(_same_object(value, option) for option in accepted)
        if kind is list and value and all(isinstance(item, dict) for item in value):
            return any(_same_objects(value, option) for option in accepted)
    return _plain(value) in [_plain(option) for option in accepted]


def _items_fit(value: Sequence[Any], accepted: Sequence[Any], items: Mapping[str, Any]) -> bool:
    """Return whether all items have the declared type, or the type of the items of an accepted list."""
    kind = PYTHON[items["type"]]
    for option in accepted:
        if not isinstance(option, list):
            continue
        others = {type(item) for item in option}
        if all(type(item) is kind or type(item) in others for item in value):
            return True
    return False


def _same_object(value: Given, option: Any) -> bool:
    if not isinstance(option, Mapping):
        return False
    for key, inner in value.items():
        if key not in option or _plain(inner) not in [_plain(choice) for choice in option[key]]:
            return False
    return all(key in value or "" in choices for key, choices in option.items())


def _same_objects(value: Sequence[Given], option: Any) -> bool:
    return isinstance(option, list) and len(option) == len(value) and all(map(_same_object, value, option))


def _plain(value: Any) -> Any:
    """Return a value for comparison; also in strings in lists, characters ignored by the leaderboard are removed."""
    if isinstance(value, str):
        return _IGNORED.sub("", value).lower().replace("'", '"')
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, str) else item for item in value]
    return value
