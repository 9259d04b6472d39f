"""How many threads compute: as many as there are processors that other work leaves free, now and while it runs.

llama.cpp's threads meet at some 900 barriers a token, so one that has to wait for a processor holds up all others. Two
threads on two cores that ten other processes wanted took 430 ms a token and one thread 140, with a third of the
processor time (SmolLM2-135M Q4_1, EPYC).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from burnish.console import say
from burnish.llama import Context
from burnish.machine import processor_use

# the kernel counts in hundredths of a second: less would be noise, more would leave a change unnoticed
INTERVAL_S = 0.5
# what others used in a longer one, with pauses in it, says little about now
LONGEST_S = 5.0
# other work that takes less of a processor than this costs less than the thread that would be given up
SPARED = 0.5
# more threads are taken only after so many readings in a row, fewer at once
PATIENCE = 2
REPORT_S = 60.0


class Threads:
    """Follows what is free. Only the engine's thread uses it."""

    def __init__(
        self,
        context: Context,
        most: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[], tuple[int, float, float] | None] = processor_use,
    ) -> None:
        """`most`: the threads on idle processors; the context has them now. `use`: see burnish.machine."""
        self.count = self.most = most
        self._context, self._clock, self._use = context, clock, use
        self._more = 0  # readings in a row that would allow more
        self._since, self._before = clock(), use()
        self._reported = -math.inf

    def follow(self) -> None:
        """Called before every decode; reads what others use twice a second."""
        now = self._clock()
        seconds = now - self._since
        if seconds < INTERVAL_S or self.most < 2:
            return
        before, after = self._before, self._use()
        self._since, self._before = now, after
        if before is None or after is None or seconds > LONGEST_S:
            return
        processors, busy, own = after
        others = max(0.0, (busy - before[1]) - (own - before[2])) / seconds
        self._choose(max(1, min(self.most, math.floor(processors - others + SPARED))), others, now)

    def _choose(self, wanted: int, others: float, now: float) -> None:
        self._more = self._more + 1 if wanted > self.count else 0
        if wanted == self.count or 0 < self._more < PATIENCE:
            return
        self.count, self._more = wanted, 0
        self._context.set_threads(wanted)
        if now - self._reported >= REPORT_S:
            self._reported = now
            say(f"computing with {wanted} of {self.most} threads: other work uses {others:.1f} processors")
