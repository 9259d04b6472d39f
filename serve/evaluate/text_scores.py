"""Scores of an answer's text against the expected one: exact, contains, f1, numeric, json."""

from __future__ import annotations

import json
import numbers
import re
import string
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any

from burnish.dialects.comparison import same_json

# 1,234.5 or -0.5 or 1e-3 or .5, also with a unit (5kg, 12ms); not the digits inside or after a word
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,4})?(?=[^\W\d_]{0,10}(?!\w))"
)
# a code block ends at the start or end of a line: JSON's strings may contain ``` but no line break
_FENCE = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:\n[ \t]*```|```[ \t]*$)", re.DOTALL | re.MULTILINE)
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = str.maketrans("", "", string.punctuation)
RELATIVE = Decimal("1e-6")
MAX_JSON = 1 << 20


def exact(answer: str, expected: str) -> float:
    """Return 1 if the texts are equal, ignoring whitespace at both ends."""
    return float(answer.strip() == expected.strip())


def contains(answer: str, expected: str) -> float:
    """Return 1 if the expected text, without whitespace at its ends, occurs in the answer."""
    return float(expected.strip() in answer)


def words(text: str) -> list[str]:
    """Return lower-case words without punctuation and articles, as SQuAD's evaluation compares them."""
    return [word for word in text.lower().translate(_PUNCTUATION).split() if word not in _ARTICLES]


def f1(answer: str, expected: str) -> float:
    """Return the F1 over the two texts' words with multiplicity (Rajpurkar et al. 2016, SQuAD)."""
    said, wanted = words(answer), words(expected)
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, or None."""
    for found in reversed(_NUMBER.findall(text)):
        try:
            value = Decimal(found.replace(",", "").replace("−", "-"))
        except InvalidOperation:  # the pattern also matches nothing
            continue
        return value if value.is_finite() else None
    return None


def numeric(answer: str, expected: str) -> float:
    """Return 1 if the last number in the answer equals that in the expected text, to six significant digits."""
    said, wanted = last_number(answer), last_number(expected)
    if said is None or wanted is None:
        return 0.0
    return float(abs(said - wanted) <= RELATIVE * max(abs(said), abs(wanted)))


def parse_json(text: str) -> tuple[bool, Any]:
    """Return whether a text is JSON, directly or in its only code block, and the value."""
    blocks = _FENCE.findall(text) if "```" in text else []
    candidate = blocks[0] if len(blocks) == 1 else text
    if len(candidate) > MAX_JSON:
        return False, None
    try:
        return True, json.loads(candidate, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def json_equal(answer: str, expected: str) -> float:
    """Return 1 if both texts are JSON with equal values; 1 equals 1.0, and the order of keys does not matter."""
    (well, said), (known, wanted) = parse_json(answer), parse_json(expected)
    return float(well and known and _same(said, wanted))


def _same(one: Any, other: Any) -> bool:
    try:
        return same_json(one, other)
    except RecursionError:
        return False


def clamp(value: Any) -> float | None:
    """Return a score between 0 and 1 as a number, also from a boolean or numpy's types; None for anything else."""
    if not isinstance(value, numbers.Real) and callable(item := getattr(value, "item", None)):
        try:
            value = item()  # numpy's booleans, and arrays and tensors with one value
        except (TypeError, ValueError, RuntimeError):
            return None
    is_number = isinstance(value, numbers.Real)
    return float(value) if is_number and 0 <= value <= 1 else None
