"""Selects test cases: some for every run, all for a thorough one (BURNISH_THOROUGH=1 make test)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

Case = TypeVar("Case")

THOROUGH = os.environ.get("BURNISH_THOROUGH", "0") != "0"


def some(cases: Iterable[Case], usual: Sequence[int]) -> list[Case]:
    """Return all cases in a thorough run, otherwise those at the indices `usual`."""
    every = list(cases)
    return every if THOROUGH else [every[index] for index in usual]


def named(cases: Iterable[str], *usual: str) -> list[str]:
    """Return all cases in a thorough run, otherwise those in `usual`. Raises ValueError for an unknown case."""
    every = list(cases)
    return some(every, [every.index(name) for name in usual])
