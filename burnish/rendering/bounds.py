"""Bounds on what a call may take: processor time, and memory beyond what the process has.

A chat template is a program from a stranger. Its time ends by a timer: Python code is interrupted, and where native
code runs on all the same, a second timer ends the process (SIGVTALRM, which the parent of a command line reports). Its
memory ends by the limit on the address space, lowered for the time of the call. All that takes about 10 us a call.
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
# how long the reading of the address space holds: between two calls the process allocates little
FRESH_S = 0.2
LINUX = sys.platform.startswith("linux")
PAGE = os.sysconf("SC_PAGE_SIZE")


class BoundExceeded(Exception):
    """What a call took too much of: time or memory."""


class _TimeOver(BaseException):
    """Ends the call; not an Exception, so that nothing in it goes on after it."""


class _Process:
    """The timer's handler, and how much address space is used: there is one of each in a process."""

    def __init__(self) -> None:
        self.running = self.installed = False
        self.used, self.read_at = 0, float("-inf")

    def start(self, seconds: float) -> bool:
        """Start both timers; does nothing outside the main thread, which alone can be interrupted."""
        if self.running or threading.current_thread() is not threading.main_thread():
            return False
        if not self.installed:
            signal.signal(signal.SIGPROF, self.expire)
            self.installed = True
        self.running = True
        signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN_S)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds + GRACE_S)
        return True

    def expire(self, number: int, frame: FrameType | None) -> None:
        if self.running:
            raise _TimeOver

    def stop(self) -> None:
        """Stop both timers."""
        self.running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def lower_memory(self, most_bytes: int) -> tuple[int, int] | None:
        """Lower the limit on the address space to what is used and `most_bytes`; return what it was."""
        if not LINUX:
            return None
        now = time.monotonic()
        if now - self.read_at > FRESH_S:
            self.used, self.read_at = address_space(), now
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = self.used + most_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), hard))
        return soft, hard


_PROCESS = _Process()


def bounded(call: Callable[[], Result], seconds: float, most_bytes: int = MOST_BYTES) -> Result:
    """Return what `call` returns. Raises BoundExceeded once it takes longer or needs more memory; and what it raises.

    `seconds` are of the processor. The time is bounded in the main thread only, the memory on Linux only.
    """
    limits, timed = _PROCESS.lower_memory(most_bytes), False
    done = False  # if not, what the call allocated may be freed soon
    try:
        try:
            timed = _PROCESS.start(seconds)
            result = call()
            done = True
            return result
        finally:
            _PROCESS.running = _PROCESS.running and not timed
    except _TimeOver:
        if not timed:  # it is the time of a call around this one
            raise
        over = f"it did not end within {seconds:g} s"
    except MemoryError:
        over = f"it needs more than {most_bytes >> 20} MiB of memory"
    finally:
        _PROCESS.read_at = _PROCESS.read_at if done else float("-inf")
        if timed:
            _PROCESS.stop()
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    # not raised above, where the error's frames would hold all that was allocated in them
    raise BoundExceeded(over)


def address_space() -> int:
    """Return the bytes of address space that this process uses."""
    return _statm()[0]


def private_memory() -> int:
    """Return the bytes in memory that belong to no file; those that a fork shares with its parent count too."""
    _, there, of_files = _statm()
    return there - of_files


def _statm() -> tuple[int, int, int]:
    """Return the bytes of address space, those that are in memory, and what of these belongs to files."""
    file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, there, of_files, *_ = os.read(file, 128).split()
        return int(size) * PAGE, int(there) * PAGE, int(of_files) * PAGE
    finally:
        os.close(file)
