"""Compare a message with the result of parsing its text."""

from __future__ import annotations

from typing import Any

from .events import Call, Parsed

SHOWN = 80


def same_json(one: Any, other: Any) -> bool:
    """Return whether two values are equal as JSON: 1 equals 1.0 but not true, and key order is ignored."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return bool(one == other)


def same_call(one: Call, other: Call) -> bool:
    """Return whether two calls have the same name and arguments."""
    return one.name == other.name and same_json(one.value(), other.value())


def difference(expected: Parsed, read: Parsed) -> str:
    """Return how the parsed message differs from the original, or ""; leading and trailing whitespace is ignored."""
    if len(expected.calls) != len(read.calls):
        return f"{len(read.calls)} of {len(expected.calls)} calls are read back"
    for number, (one, other) in enumerate(zip(expected.calls, read.calls, strict=True), start=1):
        if not same_call(one, other):
            return f"call {number} is {_call(one)}, and {_call(other)} is read back"
    for what, text, found in (
        ("thought", expected.reasoning, read.reasoning),
        ("content", expected.content, read.content),
    ):
        if text.strip() != found.strip():
            return f"the {what} is {_shown(text)}, and {_shown(found)} is read back"
    return ""


def _call(call: Call) -> str:
    return _shown(f"{call.name}({call.arguments})")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
