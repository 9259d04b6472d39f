"""Parses JSON bodies, with limits on their structure, which determines how expensive a megabyte is to parse.

The parser is jiter (pydantic's own): it rejects duplicate keys, lone surrogates, NaN, deep nesting and numbers with
thousands of digits, and reports the position of the error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jiter

from ..errors import ApiError

# limits for the whole body: lists and objects, field names, strings, and values (many only in lists of token ids)
MAX_CONTAINERS, MAX_NAMES, MAX_STRINGS, MAX_VALUES = 10_000, 30_000, 100_000, 300_000
# fields per object, and characters per field name
MAX_KEYS, MAX_KEY_CHARS = 4096, 1024
# a string, even an unterminated one: its content is not structure
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
BOM = b"\xef\xbb\xbf"
KEY = re.compile(r'Detected duplicate key (".*") at line')


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a request body. Raises ApiError 400 if it is not a JSON object or exceeds the limits."""
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
    """Raise ApiError for too many lists, objects, fields, strings or values; string contents do not count."""
    what = ""
    if body.count(b'"') - body.count(b'\\"') > 2 * MAX_STRINGS:
        what = f"{MAX_STRINGS:,} strings"
    elif _over(body):
        what = _over(STRING.sub(b"", body))
    if what:
        raise ApiError(400, f"The body has more than {what}.", code="body_too_complex")


def _over(text: bytes) -> str:
    """Return a description of the limit that `text` exceeds, or "" if there is none."""
    if text.count(b"[") + text.count(b"{") > MAX_CONTAINERS:
        return f"{MAX_CONTAINERS:,} lists and objects"
    if text.count(b":") > MAX_NAMES:
        return f"{MAX_NAMES:,} fields"
    return f"{MAX_VALUES:,} values" if text.count(b",") > MAX_VALUES else ""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value, including itself."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            part = part.values()
        waiting += [inner for inner in part if isinstance(inner, dict | list)]


def _check_keys(value: dict[str, Any]) -> None:
    if len(value) > MAX_KEYS:
        raise ApiError(400, f"An object in the body has more than {MAX_KEYS} fields.", code="body_too_complex")
    if long := next((key for key in value if len(key) > MAX_KEY_CHARS), None):
        text = f"A field name has more than {MAX_KEY_CHARS} characters: '{long[:40]}…'."
        raise ApiError(400, text, code="string_above_max_length")


def _malformed(found: str) -> ApiError:
    if key := KEY.match(found):
        name = key[1].strip('"')[:100]
        text = f"'{name}' appears twice in one object of the body: {found.rpartition(' at ')[2]}."
        return ApiError(400, text, param=name, code="duplicate_parameter")
    hint = " (a lone surrogate is not a valid character)" if "surrogate" in found or "hex escape" in found else ""
    return ApiError(400, f"We could not parse the JSON body of your request: {found[:200]}{hint}.")
