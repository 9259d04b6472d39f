"""Log lines that strangers can cause: a few of each kind a minute, and how many more there were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST_A_MINUTE, MINUTE_S = 5, 60.0
MOST_KINDS = 1000


class LogLimit(logging.Filter):
    """Lets a few records of each kind (logger, level, text without its values) through, and counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}  # since when, how many since then

    def filter(self, record: logging.LogRecord) -> bool:
        more = self.passes((record.name, record.levelno, str(record.msg)))
        if more:
            record.msg = f"{record.msg} ({more} more like this before)"
        return more is not None

    def passes(self, kind: tuple[str, int, str]) -> int | None:
        """Count one of a kind; return how many were left out before it, None where it is to be left out."""
        now = self._clock()
        since, count = self._kinds.get(kind, (now, 0))
        left_out = 0
        if now - since >= MINUTE_S:
            left_out, since, count = max(0, count - MOST_A_MINUTE), now, 0
        if len(self._kinds) >= MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (since, count + 1)
        return left_out if count < MOST_A_MINUTE else None
