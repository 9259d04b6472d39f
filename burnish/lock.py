"""Lock a run directory so that only one process works on it; the lock is released when the process ends."""

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
USED = ".in-use"  # locked by those that only read the run, such as servers: work on the run may go on beside them
# errors from file systems without flock; the run then continues without a lock
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
TRIES, TRY_S = 10, 0.05  # `check` holds the lock for an instant


@contextmanager
def hold(directory: Path, what: str) -> Iterator[None]:
    """Hold the lock on the run in `directory`, created if necessary, while `what` ("training") works on it.

    If another process holds the lock, raises RunError with that process, its start time and its task. Raises FileError
    if the run is not writable. Child processes do not inherit the lock.
    """
    check_writable(directory, 0, what)
    try:
        # don't follow a link: the file is truncated
        file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise FileError(f"{directory / LOCK} can't be written ({why}): {what} needs it") from None
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


@contextmanager
def using(directory: Path) -> Iterator[None]:
    """Hold a shared lock on the run in `directory` while its files are read, so that the run is not deleted meanwhile.

    Any number of processes may hold it. A run that can't be written to is used without it. Raises RunError if the run
    is being deleted.
    """
    file = _open_used(directory, os.O_CREAT)
    try:
        if file is not None:
            _lock(file, directory, fcntl.LOCK_SH, TRIES)
        yield
    finally:
        if file is not None:
            os.close(file)


@contextmanager
def unused(directory: Path) -> Iterator[None]:
    """Hold the exclusive form of the lock of `using`. Raises RunError if a process uses the run."""
    file = _open_used(directory)
    try:
        if file is not None:
            _lock(file, directory, fcntl.LOCK_EX)
        yield
    finally:
        if file is not None:
            os.close(file)


def _open_used(directory: Path, create: int = 0) -> int | None:
    """Open the file that users of a run lock, for writing if possible; return None if there is none."""
    for mode in (os.O_RDWR | create, os.O_RDONLY):
        try:
            return os.open(directory / USED, mode | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError:
            continue
    return None


def check(directory: Path) -> None:
    """Raise RunError if another process is working on the run: an early check, before the data is read."""
    try:
        file = os.open(directory / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # no process has worked on it yet
    try:
        _lock(file, directory, fcntl.LOCK_SH)  # on NFS a file opened for reading allows only a shared lock
    finally:
        os.close(file)


def _lock(file: int, directory: Path, kind: int, tries: int = 1) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if tries > 1:
            time.sleep(TRY_S)
            return _lock(file, directory, kind, tries - 1)
        raise RunError(f"run '{directory.name}': {_holder(file)}: wait until it ends, or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn(f"{directory} can't be locked ({error.strerror}): do not run another command on this run at the same time")


def _holder(file: int) -> str:
    """Return the holder's description of itself, which it may not have written yet."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        return f"{holder['what']} has been working on it since {holder['since']}, as process {holder['pid']}{where}"
    except (ValueError, KeyError, TypeError):
        return "another process is working on it"
