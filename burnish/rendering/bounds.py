"""Limit a call's CPU time and additional memory.

A chat template is an untrusted program. A timer interrupts its Python code. If native code does not respond, a
second timer ends the process (SIGVTALRM, which a command's parent process reports). Memory is limited by lowering
the address-space limit during the call. The overhead is about 10 us per call.
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

MAX_BYTES = 512 << 20
# the interrupt repeats, because Python ignores it in some places, such as finalizers
AGAIN_S = 0.05
# CPU seconds that native code may run beyond the limit
GRACE_S = 10.0
# how long an address-space measurement stays valid: the process allocates little between calls
FRESH_S = 0.2
LINUX = sys.platform.startswith("linux")
PAGE = os.sysconf("SC_PAGE_SIZE")


class BoundExceeded(Exception):
    """A call exceeded its time or memory limit."""


class _TimeOver(BaseException):
    """Interrupts the call; not an Exception subclass, so that the call does not catch it."""


class _Process:
    """The timer handler and the address space in use, both process-wide."""

    def __init__(self) -> None:
        self.running = self.installed = False
        self.used, self.read_at = 0, float("-inf")

    def start(self, seconds: float) -> bool:
        """Start both timers; do nothing outside the main thread, since only the main thread can be interrupted."""
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
        self.running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def lower_memory(self, most_bytes: int) -> tuple[int, int] | None:
        """Lower the address-space limit to the current usage plus `most_bytes`; return the previous limit."""
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


def bounded(call: Callable[[], Result], seconds: float, most_bytes: int = MAX_BYTES) -> Result:
    """Run `call`; return its result or raise its exception, or BoundExceeded if it exceeds a limit.

    `seconds` is CPU time. Time is limited only in the main thread, memory only on Linux.
    """
    limits, timed = _PROCESS.lower_memory(most_bytes), False
    done = False  # a failed call's memory may be freed soon, so usage must be measured again
    try:
        try:
            timed = _PROCESS.start(seconds)
            result = call()
            done = True
            return result
        finally:
            _PROCESS.running = _PROCESS.running and not timed
    except _TimeOver:
        if not timed:  # the limit of an enclosing call
            raise
        over = f"no result within {seconds:g} s"
    except MemoryError:
        over = f"more than {most_bytes >> 20} MiB of memory needed"
    finally:
        _PROCESS.read_at = _PROCESS.read_at if done else float("-inf")
        if timed:
            _PROCESS.stop()
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    # raised here, since in the handlers the original exception's frames would keep all their memory
    raise BoundExceeded(over)


def address_space() -> int:
    """Return the size of this process's address space in bytes."""
    return _statm()[0]


def private_memory() -> int:
    """Return the resident bytes not backed by a file, including pages shared with the parent after a fork."""
    _, there, of_files = _statm()
    return there - of_files


def _statm() -> tuple[int, int, int]:
    """Return the address-space size, the resident bytes, and the file-backed resident bytes."""
    file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        size, there, of_files, *_ = os.read(file, 128).split()
        return int(size) * PAGE, int(there) * PAGE, int(of_files) * PAGE
    finally:
        os.close(file)
