"""Rate limit for log lines that untrusted clients can trigger: a few of each kind per minute, the rest counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MAX_PER_MINUTE, MINUTE_S = 5, 60.0
MAX_KINDS = 1000


class LogLimit(logging.Filter):
    """Passes a few records of each kind (logger, level, unformatted message) per minute, and counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}  # start of the minute, count since then

    def filter(self, record: logging.LogRecord) -> bool:
        more = self.passes((record.name, record.levelno, str(record.msg)))
        if more:
            record.msg = f"{record.msg} ({more} similar lines suppressed)"
        return more is not None

    def passes(self, kind: tuple[str, int, str]) -> int | None:
        """Count a record; return how many were suppressed before it, or None if it must be suppressed."""
        now = self._clock()
        since, count = self._kinds.get(kind, (now, 0))
        suppressed = 0
        if now - since >= MINUTE_S:
            suppressed, since, count = max(0, count - MAX_PER_MINUTE), now, 0
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (since, count + 1)
        return suppressed if count < MAX_PER_MINUTE else None
