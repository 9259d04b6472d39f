"""Parse and validate records, reporting every error. All records are read here."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..fields import SHA256, Record, StageRecord
from .export import ExportRecord
from .verdicts import contradictions

AnyRecord = TypeVar("AnyRecord", bound=StageRecord)
MAX_BYTES = 8 << 20
READ_VERSION = 1
MAX_DIGITS = 20
MAX_SHOWN, MAX_FAULTS = 60, 20


class RecordError(Exception):
    """Raised when a record is invalid; `faults` are lines of the form "field: what is wrong; found what"."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("; ".join(faults))


def parse(kind: type[AnyRecord], data: bytes) -> AnyRecord:
    """Parse a record from a file's bytes. Raises RecordError with every error."""
    content = _json(data)
    version = content.get("schema_version", READ_VERSION)
    if isinstance(version, int) and not isinstance(version, bool) and version > READ_VERSION:
        raise RecordError([
            f"schema_version: {version} was written by a newer Burnish, this one reads {READ_VERSION}: update Burnish"
        ])  # fmt: skip
    try:
        record = kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = [_fault(detail) for detail in found[:MAX_FAULTS]]
        more = len(found) - len(faults)
        raise RecordError(faults + ([f"and {more} more errors"] if more > 0 else [])) from None
    if isinstance(record, ExportRecord) and (faults := list(contradictions(record))):
        raise RecordError(faults)
    return record


def _json(data: bytes) -> dict[str, Any]:
    """Parse the bytes as a JSON object. Rejects duplicate keys and non-finite numbers."""
    if len(data) > MAX_BYTES:
        raise RecordError([f"expected at most {MAX_BYTES:,} bytes, got {len(data):,}"])
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise RecordError(["the file is nested too deeply"]) from None
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise RecordError([f"the file is not JSON: {error}"]) from None
    if not isinstance(content, dict):
        raise RecordError([f"the file: expected a JSON object, found {_shown(content)}"])
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RecordError([f"{twice[:MAX_SHOWN]}: the key occurs twice in one object"])
    return content


def _constant(name: str) -> None:
    raise RecordError([f"the file: {name} is not JSON"])


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise RecordError([f"the file: {text[:MAX_SHOWN]} is too large for a number"])
    return value


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise RecordError([f"the file: {text[:MAX_SHOWN]} is too large for a number"])
    return int(text)


def _fault(detail: ErrorDetails) -> str:
    """Format one error as "field: what was expected, found what"."""
    where = ".".join(map(str, detail["loc"])) or "the file"
    what = detail["msg"].removeprefix("Value error, ")
    if detail.get("ctx", {}).get("pattern") == SHA256:
        what = "expected a sha256: 64 hex digits"
    what = what[:1].lower() + what[1:]
    missing = detail["type"] == "missing" or isinstance(detail["input"], Record)
    return f"{where[: 3 * MAX_SHOWN]}: {what}" + ("" if missing else f"; found {_shown(detail['input'])}")


def _shown(value: Any) -> str:
    """Format a value for a message; lists and objects are only named, long strings truncated."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, default=str)
    return text if len(text) <= MAX_SHOWN + 2 else f"{text[:MAX_SHOWN]}..."
