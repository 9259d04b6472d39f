"""Bounds on what a call may take: time, and memory beyond what the process has.

A chat template is a program from a stranger. Its time ends by a timer: Python code is interrupted, and where native
code runs on all the same, a second timer ends the process (SIGVTALRM, which the parent of a command line reports). Its
memory ends by the limit on the address space, lowered for the time of the call.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

MOST_BYTES = 512 << 20
# an interrupt may come where Python can only ignore it, in a finalizer for example: it comes again
AGAIN_S = 0.05
# processor seconds that native code may run on after the time is over
GRACE_S = 10.0
LINUX = sys.platform.startswith("linux")
PAGE = os.sysconf("SC_PAGE_SIZE")


class BoundExceeded(Exception):
    """What a call took too much of: time or memory."""


class _TimeOver(BaseException):
    """Ends the call; not an Exception, so that nothing in it goes on after it."""


class _Timer:
    """Interrupts the main thread's call once its time is over. Elsewhere it does nothing: signals can't reach it."""

    __slots__ = ("began", "handler", "left", "running", "virtual")

    def __init__(self, seconds: float) -> None:
        self.running = threading.current_thread() is threading.main_thread()
        self.handler = signal.signal(signal.SIGALRM, self.expire) if self.running else None
        if self.running:
            self.began = time.monotonic()
            self.left = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
            self.virtual = signal.setitimer(signal.ITIMER_VIRTUAL, seconds + GRACE_S)

    def expire(self, number: int, frame: FrameType | None) -> None:
        if self.running:
            raise _TimeOver

    def stop(self) -> None:
        """Put everything back as it was; a timer that was running goes on."""
        if self.handler is None:
            return
        signal.setitimer(signal.ITIMER_VIRTUAL, *self.virtual)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.handler)
        if self.left[0]:
            spent = time.monotonic() - self.began
            signal.setitimer(signal.ITIMER_REAL, max(self.left[0] - spent, 1e-3), self.left[1])


def bounded(call: Callable[[], Result], seconds: float, most_bytes: int = MOST_BYTES) -> Result:
    """Return what `call` returns. Raises BoundExceeded once it takes longer or needs more memory; and what it raises.

    The time is bounded in the main thread only, the memory on Linux only.
    """
    limits = _lower_memory(most_bytes)
    timer = _Timer(seconds)
    try:
        try:
            return call()
        finally:
            timer.running = False
    except _TimeOver:
        raise BoundExceeded(f"it did not end within {seconds:g} s") from None
    except MemoryError:
        raise BoundExceeded(f"it needs more than {most_bytes >> 20} MiB of memory") from None
    finally:
        timer.running = False
        timer.stop()
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)


def _lower_memory(most_bytes: int) -> tuple[int, int] | None:
    """Lower the limit on the address space to what is used and `most_bytes`; return what it was."""
    if not LINUX:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = address_space() + most_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
    return soft, hard


def address_space() -> int:
    """Return the bytes of address space that this process uses."""
    file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(file, 64).split(maxsplit=1)[0]) * PAGE
    finally:
        os.close(file)
