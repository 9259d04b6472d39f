"""Record field types: bounded strings and numbers, hashes, timestamps, and paths inside a run.

A record from a copied run or a Hub repository is untrusted, so every field has a bounded type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_COUNT = 2**53  # the largest integer that every JSON parser reads exactly
MAX_TOKENS = 2**31 - 1  # llama.cpp counts tokens in 32 bits
LONGEST_LINE, LONGEST_TEXT, LONGEST_PATH = 1024, 1 << 18, 1024
MAX_ITEMS = 100_000
LICENCE_KEYS = ("license", "license_name", "license_link")  # metadata keys in a Hub model card
ROUNDING = 1e-3  # how far rounding may push a computed figure outside its range
SHA256 = r"^[0-9a-f]{64}$"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Record(BaseModel):
    """Base class for all records. Unknown keys are kept: a newer version may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


def inside(text: str) -> str:
    """Return a relative path if it stays inside its base directory. Raises ValueError if not."""
    if found := _CONTROL.search(text):
        raise ValueError(f"{found.group()!r} is not allowed in a path")
    if text.startswith(("/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text):
        raise ValueError("expected a path relative to the run")
    if not text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("expected a path inside the run, without empty parts, '.' and '..'")
    return PurePosixPath(text).as_posix()


def moment(text: str) -> datetime:
    """Parse a record's timestamp as UTC. Raises ValueError if it is not ISO 8601."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _moment(text: str) -> str:
    try:
        moment(text)
    except (ValueError, OverflowError):
        raise ValueError("expected a timestamp such as 2026-01-31T12:00:00Z") from None
    return text


def _date(text: str) -> str:
    if text:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("expected a date such as 2026-01-31") from None
    return text


def within(least: float, most: float = math.inf) -> Callable[[float], float]:
    """Return a range check for a figure. NaN passes here: the gate rejects it by name."""

    def check(value: float) -> float:
        if value < least - ROUNDING or value > most + ROUNDING:
            raise ValueError(f"expected {least:g} or more" if math.isinf(most) else f"expected {least:g} to {most:g}")
        return value

    return check


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1] + ROUNDING:
        raise ValueError("expected the interval's lower end first")
    return value


Sha256 = Annotated[str, Field(pattern=SHA256)]
InsidePath = Annotated[str, Field(max_length=LONGEST_PATH), AfterValidator(inside)]
Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
Date = Annotated[str, Field(max_length=10), AfterValidator(_date)]  # "": no date
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\x00-\x1f\x7f]+$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
Line = Annotated[str, Field(min_length=1, max_length=LONGEST_LINE)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Measured = Annotated[float, Field(ge=0, le=MAX_COUNT, allow_inf_nan=False)]
Loss = Annotated[float | None, BeforeValidator(_finite)]  # None: not finite, as after divergence
NotNegative = Annotated[float, AfterValidator(within(0.0))]
Share = Annotated[float, AfterValidator(within(0.0, 1.0))]
Interval = Annotated[tuple[float, float], AfterValidator(_interval)]
Lines = Annotated[list[Line], Field(max_length=MAX_ITEMS)]
Versions = Annotated[dict[Line, Line], Field(max_length=1000)]
Variables = Annotated[dict[Text, Any], Field(max_length=1000)]


class StageRecord(Record):
    """The fields common to every stage's record."""

    schema_version: Literal[1] = 1
    run_id: Name
    created: Moment
