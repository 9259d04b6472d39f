"""Explain in one line how a process ended, and supervise a stage from a parent process that reports crashes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

MEANINGS = {
    "SIGILL": "illegal instruction",
    "SIGSEGV": "a read or write outside its memory",
    "SIGBUS": "a memory access that failed",
    "SIGFPE": "an arithmetic fault",
    "SIGABRT": "a failed check in native code",
    "SIGTRAP": "a trap in native code",
    "SIGSYS": "a system call that is not allowed here",
    "SIGKILL": "killed, most likely because memory ran out",
    "SIGTERM": "terminated by a signal",
    "SIGINT": "interrupted",
    "SIGHUP": "its terminal closed",
    "SIGXCPU": "the limit on CPU time was exceeded",
    "SIGVTALRM": "a chat template that could not be interrupted ran far beyond its time limit",
}
REBUILD = (
    "llama.cpp does not fit this CPU or was miscompiled: `rm -f .venv/.llama`, then `make setup` builds and tests it "
    "for this CPU; images: LLAMA_CPU=v3 make images"
)
REMEDIES = {
    "SIGILL": REBUILD,
    "SIGSEGV": f"see the lines above; if it happens with another file too, {REBUILD}",
    "SIGBUS": "a file was truncated while it was read, or a disk or /dev/shm is full: check both, then run again",
    "SIGABRT": "the line above names the check; the usual cause is a damaged model file",
    "SIGVTALRM": "use another template (chat.template), or more time (template_timeout_s)",
    "SIGKILL": "use a smaller model, fewer sequences or cells, or give it more memory (in containers SERVE_MEMORY, "
    "TRAIN_MEMORY, EXPORT_MEMORY)",
}
MAPPED = (
    "{} was truncated or overwritten while in use, or its disk failed: restore it and start again. Replace a"
    " model by renaming a new file over it, or have serve read it into memory (--mmap false)"
)
LLAMA = frozenset({"SIGILL", "SIGSEGV"})  # rebuilding llama.cpp is the remedy
# shells and container engines report 128 + the signal. 143 (SIGTERM) may be a program's own exit code
REPORTED = frozenset({"SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGSEGV", "SIGSYS"})
# sent deliberately, not a crash: this process ends with the same signal
REQUESTED = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE})
PR_SET_PDEATHSIG = 1  # prctl(2)
Note = Callable[[str], None]


def signal_name(code: int) -> str | None:
    """Return the signal that an exit code stands for: -n in Python, 128 + n in a shell; None for ordinary codes."""
    try:
        if code < 0:
            return signal.Signals(-code).name
        name = signal.Signals(code - 128).name
    except ValueError:
        return None
    return name if name in REPORTED else None


def exit_reason(code: int, llama: bool = True) -> str:
    """Return how a child process ended: "exit code 3", or the signal, its meaning and the remedy.

    `llama`: the child ran llama.cpp, whose build is the likely cause of an illegal instruction or invalid read.
    """
    name = signal_name(code)
    if name is None:
        return f"exit code {code}"
    way = REMEDIES.get(name) if llama or name not in LLAMA else None
    return f"ended by {name} ({MEANINGS.get(name, 'a signal')})" + (f": {way}" if way else "")


def crashed(code: int) -> bool:
    """Return whether a crash signal ended a child process."""
    return signal_name(code) is not None


def ignore_path(path: str) -> None:
    """Do nothing: there is no parent to notify."""


def supervise(what: str, llama: bool = True) -> Note:
    """Fork and continue in the child. The parent waits for it and never returns from here.

    A process killed by a signal can't report it. The parent prints one line with the signal and the remedy, and exits
    with 2; otherwise it exits with the child's code. Signals sent only to the parent are forwarded; terminal signals
    reach both. Call this first, before threads and large imports. Linux only; elsewhere it does nothing.

    Ctrl-C ends the child immediately until the child changes that (as `run_edge` does): imports and native code don't
    handle KeyboardInterrupt. The child calls the returned function to tell the parent which file it maps, which
    explains a SIGBUS.
    """
    if not sys.platform.startswith("linux"):
        return ignore_path
    forwarded = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    read_end, write_end = os.pipe()  # not inherited by the child's own children
    os.set_blocking(read_end, False)
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write_end)
        _wait(child, forwarded, lambda code: _end(what, code, llama, read_end))
    os.close(read_end)
    end_with_parent()  # otherwise the child would outlive a killed parent
    if os.getppid() != parent:
        os._exit(1)
    ctrl_c_ends_at_once()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def note(path: str) -> None:
        os.write(write_end, os.fsencode(os.path.abspath(path)) + b"\n")

    return note


def run_to_end(command: Sequence[str]) -> int:
    """Run a command and return its exit code; -n if signal n ended it.

    Ctrl-C on a terminal also reaches the command: this process waits for it to clean up and exit, however long that
    takes, and then raises KeyboardInterrupt. A signal sent only to this process is forwarded.
    """
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals | {signal.SIGCHLD})
    interrupted = False
    try:
        unblock = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        process = subprocess.Popen(list(command), preexec_fn=unblock)
        while process.poll() is None:
            info = signal.sigwaitinfo(signals | {signal.SIGCHLD})
            interrupted = interrupted or info.si_signo == signal.SIGINT
            if info.si_signo != signal.SIGCHLD and not _reached_all(info):
                process.send_signal(info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if interrupted:
        raise KeyboardInterrupt
    return process.returncode


def end_with_parent() -> None:
    """Make the kernel kill this process when its parent ends. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ctrl_c_ends_at_once() -> None:
    """Let SIGINT end the process immediately, like SIGTERM. If SIGINT was ignored at startup, it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def ctrl_c_raises() -> None:
    """Let SIGINT raise KeyboardInterrupt, Python's default, so that partial work can be cleaned up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(what: str, code: int, llama: bool, pipe: int) -> str:
    """Return how the child ended. `pipe`: the pipe to which the child wrote the path of its mapped file."""
    if -code == signal.SIGINT:
        return f"interrupted: {what} had not started"
    if -code == signal.SIGBUS and (mapped := _last_line(pipe)):
        return f"error: {what} ended by SIGBUS ({MEANINGS['SIGBUS']}): {MAPPED.format(mapped)}"
    return f"error: {what} {exit_reason(code, llama)}"


def _last_line(pipe: int) -> str:
    try:
        return os.fsdecode(os.read(pipe, 65_536).rpartition(b"\n")[0].rpartition(b"\n")[2])
    except BlockingIOError:  # nothing was written
        return ""


def _wait(child: int, forwarded: set[signal.Signals], describe: Callable[[int], str]) -> NoReturn:
    while True:
        info = signal.sigwaitinfo(forwarded | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if not _reached_all(info):
                os.kill(child, info.si_signo)
            continue
        while True:  # as pid 1 in a container without an init, also reap orphans
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                _exit_like(os.waitstatus_to_exitcode(status), describe)
            if not ended:
                break


def _reached_all(info: signal.struct_siginfo) -> bool:
    """Whether a signal came from a terminal key, which also signals the children.

    si_code is above 0 for signals from the kernel. SIGHUP is one, but only the session leader receives it.
    """
    return info.si_code > 0 and info.si_signo != signal.SIGHUP


def _exit_like(code: int, describe: Callable[[int], str]) -> NoReturn:
    if code >= 0:
        sys.exit(code)
    if -code in REQUESTED:
        if -code == signal.SIGINT:
            print(describe(code), file=sys.stderr, flush=True)
        signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
        sys.exit(128 - code)  # pid 1 in a container can't end itself with a signal
    print(describe(code), file=sys.stderr, flush=True)
    sys.exit(2)


# threading.stack_size is process-wide: only one thread may set it at a time
_STACK_SIZE = threading.Lock()


@contextmanager
def thread_stack(size: int) -> Iterator[None]:
    """Give threads that start during the block a stack of `size` bytes. Raises ValueError if the size is invalid."""
    with _STACK_SIZE:
        before = threading.stack_size(size)
        try:
            yield
        finally:
            threading.stack_size(before)
