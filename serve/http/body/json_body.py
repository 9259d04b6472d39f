"""A body's JSON, with bounds: what one megabyte may cost is decided by its structure, so that is counted first.

jiter (pydantic's own parser) reads it: it refuses duplicate keys, lone surrogates, NaN, deep nesting and numbers of
thousands of digits, and names the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jiter

from ..errors import ApiError

# over the whole body: lists and objects, names of fields, strings, and values, of which only token ids are many
MOST_CONTAINERS, MOST_NAMES, MOST_STRINGS, MOST_VALUES = 10_000, 30_000, 100_000, 300_000
# fields of one object, and characters of a name
MOST_KEYS, LONGEST_KEY = 4096, 1024
# a string, also one that never ends: what a string holds is not structure
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
BOM = b"\xef\xbb\xbf"
KEY = re.compile(r'Detected duplicate key (".*") at line')


def parse_json(body: bytes) -> dict[str, Any]:
    """Read a request body. Raises ApiError 400 where it is not a JSON object, or more than a request needs."""
    _check_structure(body)
    try:
        value = jiter.from_json(
            body.removeprefix(BOM), allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True
        )
    except ValueError as error:
        raise _malformed(str(error)) from None
    if not isinstance(value, dict):
        raise ApiError(400, f"The body must be a JSON object, not {type(value).__name__}.", code="invalid_type")
    for part in _objects(value):
        _check_keys(part)
    return value


def _check_structure(body: bytes) -> None:
    """Raise ApiError for more lists, objects and values than a request can need. What is in strings does not count."""
    what = ""
    if body.count(b'"') - body.count(b'\\"') > 2 * MOST_STRINGS:
        what = f"{MOST_STRINGS:,} strings"
    elif _over(body):
        what = _over(STRING.sub(b"", body))
    if what:
        raise ApiError(400, f"The body has more than {what}.", code="body_too_complex")


def _over(text: bytes) -> str:
    """Say which limit is passed; "" where none is."""
    if text.count(b"[") + text.count(b"{") > MOST_CONTAINERS:
        return f"{MOST_CONTAINERS:,} lists and objects"
    if text.count(b":") > MOST_NAMES:
        return f"{MOST_NAMES:,} fields"
    return f"{MOST_VALUES:,} values" if text.count(b",") > MOST_VALUES else ""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON value, itself included."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            part = part.values()
        waiting += [inner for inner in part if isinstance(inner, dict | list)]


def _check_keys(value: dict[str, Any]) -> None:
    if len(value) > MOST_KEYS:
        raise ApiError(400, f"An object of the body has more than {MOST_KEYS} fields.", code="body_too_complex")
    if long := next((key for key in value if len(key) > LONGEST_KEY), None):
        text = f"A field's name has more than {LONGEST_KEY} characters: '{long[:40]}…'."
        raise ApiError(400, text, code="string_above_max_length")


def _malformed(found: str) -> ApiError:
    if key := KEY.match(found):
        name = key[1].strip('"')[:100]
        text = f"'{name}' is given twice in one object of the body: {found.rpartition(' at ')[2]}."
        return ApiError(400, text, param=name, code="duplicate_parameter")
    hint = " (a lone surrogate is not a character)" if "surrogate" in found or "hex escape" in found else ""
    return ApiError(400, f"We could not parse the JSON body of your request: {found[:200]}{hint}.")
