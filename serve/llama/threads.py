"""Adapts the number of compute threads to the CPUs that other processes leave free.

llama.cpp's threads synchronize at about 900 barriers per token, so a thread waiting for a CPU delays all others. With
ten busy processes on two cores, two threads took 430 ms per token; one thread took 140 ms and a third of the CPU time
(SmolLM2-135M Q4_1, EPYC).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from burnish.console import say
from burnish.llama import Context
from burnish.machine import processor_use

# the kernel counts in hundredths of a second: a shorter interval would measure noise, a longer one would react late
INTERVAL_S = 0.5
# readings over a longer interval, which contains pauses, are discarded
MAX_INTERVAL_S = 5.0
# other work below this share of a CPU costs less than giving up a thread
TOLERATED_CPUS = 0.5
# consecutive readings required to add threads; removal is immediate
PATIENCE = 2
REPORT_S = 60.0


class Threads:
    """Sets the context's thread count from the number of free CPUs. Used only by the engine thread."""

    def __init__(
        self,
        context: Context,
        limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[], tuple[int, float, float] | None] = processor_use,
    ) -> None:
        """`limit` threads are used on an idle machine, and set in the context at once. `use`: see burnish.machine."""
        self.count = self.limit = limit
        self._context, self._clock, self._use = context, clock, use
        self._more = 0  # consecutive readings that allow more threads
        self._since, self._before = clock(), use()
        self._reported = -math.inf

    def follow(self) -> None:
        """Adjust the thread count. Called before every decode; reads CPU usage twice a second."""
        now = self._clock()
        seconds = now - self._since
        if seconds < INTERVAL_S or self.limit < 2:
            return
        before, after = self._before, self._use()
        self._since, self._before = now, after
        if before is None or after is None or seconds > MAX_INTERVAL_S:
            return
        processors, busy, own = after
        others = max(0.0, (busy - before[1]) - (own - before[2])) / seconds
        self._choose(max(1, min(self.limit, math.floor(processors - others + TOLERATED_CPUS))), others, now)

    def _choose(self, wanted: int, others: float, now: float) -> None:
        self._more = self._more + 1 if wanted > self.count else 0
        if wanted == self.count or 0 < self._more < PATIENCE:
            return
        self.count, self._more = wanted, 0
        self._context.set_threads(wanted)
        if now - self._reported >= REPORT_S:
            self._reported = now
            say(f"using {wanted} of {self.limit} threads: other processes use {others:.1f} CPUs")
