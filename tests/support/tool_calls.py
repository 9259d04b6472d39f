"""Random tool calls whose strings contain text that could mislead a parser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from burnish.dialects.events import Call
from burnish.dialects.formats import DIALECTS

MARKERS = sorted({m for d in DIALECTS.values() for m in (*d.begins, *d.opens, *d.ends, *d.markers)} | {"</think>"})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
STRINGS = st.one_of(TEXT, st.sampled_from([*MARKERS, '"', "'", "\\", "\n", "```", "{", "}]"]), TEXT.map(json.dumps))
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=6,
)
CALLS = st.lists(
    st.builds(Call, NAMES, st.dictionaries(NAMES, VALUES, max_size=3).map(lambda value: json.dumps(value))),
    min_size=1,
    max_size=3,
    unique_by=lambda call: call.name,  # so that each argument has one type
)


_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


def parameters(calls: Sequence[Call]) -> dict[str, Any]:
    """Return parameter schemas for the called tools, derived from the calls' arguments."""
    found: dict[str, Any] = {call.name: {"type": "object", "properties": {}} for call in calls}
    for call in calls:
        for key, value in call.value().items():
            found[call.name]["properties"][key] = {"type": _TYPES.get(type(value), "null")}
    return found


def holds(value: Any, text: str) -> bool:
    """Return whether any string in a value contains a text."""
    return text in json.dumps(value, ensure_ascii=False).replace('\\"', '"')
