"""One process at a time works on a run: a lock on a file in its directory, which ends with the process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import warn
from .files import FileError, check_writable, irregular
from .run import RunError, now

LOCK = ".lock"
# file systems on which flock is not there; a run goes on without it
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
TRIES, TRY_S = 10, 0.05  # a process that only looks holds it for an instant


@contextmanager
def hold(directory: Path, what: str) -> Iterator[None]:
    """Hold the run in `directory`, which is made where it isn't there, while `what` ("training") works on it.

    Raises RunError with who holds it, since when and at what, where another process does, and FileError where the run
    can't be written. Children that are started meanwhile do not inherit the lock.
    """
    check_writable(directory, 0, what)
    try:
        # a link is not followed: the file is emptied
        file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise FileError(f"{directory / LOCK}: can't be written ({why}): {what} needs it") from None
    try:
        if why := irregular(directory / LOCK):
            raise FileError(f"{directory / LOCK}: {why}")
        _lock(file, directory, fcntl.LOCK_EX, TRIES)
        os.ftruncate(file, 0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now(), "what": what}
        os.write(file, json.dumps(holder).encode() + b"\n")
        yield
    finally:
        os.close(file)


def check(directory: Path) -> None:
    """Raise RunError where another process works on the run; to say it before the data is read."""
    try:
        file = os.open(directory / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # nobody has worked on it yet
    try:
        _lock(file, directory, fcntl.LOCK_SH)  # which a file that is open for reading allows on NFS too
    finally:
        os.close(file)


def _lock(file: int, directory: Path, kind: int, tries: int = 1) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if tries > 1:
            time.sleep(TRY_S)
            return _lock(file, directory, kind, tries - 1)
        raise RunError(f"run '{directory.name}': {_holder(file)}: wait until it has ended, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{directory}: can't be locked ({error.strerror}): start nothing else on this run meanwhile")


def _holder(file: int) -> str:
    """Say who holds the lock, as it wrote itself; it may not have written yet."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        return f"{holder['what']} works on it since {holder['since']}, as process {holder['pid']}{where}"
    except (ValueError, KeyError, TypeError):
        return "another process works on it"
