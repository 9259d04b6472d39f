"""The cache of prepared rows: entries by key, whole or absent, the least recently used removed above a limit."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from burnish.console import gib, say
from burnish.files import FileError, cache_root, private_directory

from .store import META, Store

PARTIAL, LOCKS, ROOT_LOCK = ".partial", "locks", "all"
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
# without locks, what a killed process left is recognised by its age
ABANDONED_S = 86_400.0


class Shelf:
    """The entries in a directory; `limit` is the maximum number of bytes of all of them together.

    An entry's directory appears by renaming, once everything in it is on the disk. A process that reads an entry holds
    a shared lock on it, one that writes it an exclusive lock: a locked entry is never removed.
    """

    def __init__(self, limit: int, root: Path | None = None) -> None:
        self.limit, self.root = limit, root or cache_root() / "rows"

    def find(self, key: str) -> Store | None:
        """Return the entry for a key and mark it as used; None if there is none, or it is damaged."""
        directory = self.root / key
        try:
            lock, _ = _locked(directory / META, fcntl.LOCK_SH)
        except OSError:
            return None
        try:
            store = Store(directory)
            store.check()
        except (FileError, KeyError):
            os.close(lock)
            say(f"data: {directory} is damaged: the rows are prepared again")
            _remove(directory, directory / META)
            return None
        weakref.finalize(store, os.close, lock)
        with suppress(OSError):
            os.utime(directory / META)
        return store

    @contextmanager
    def preparing(self, key: str) -> Iterator[None]:
        """Let one process at a time prepare the rows of a key; others wait."""
        with self._lock(key, "another command is preparing these rows: waiting for it"):
            yield

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield a new directory that becomes the entry for the key at the end; an exception leaves nothing behind."""
        with self._lock(ROOT_LOCK):  # else another process could take the directory before it is locked
            self._sweep()
            directory = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=PARTIAL, dir=self.root))
            lock, _ = _locked(directory, fcntl.LOCK_EX)
        try:
            yield directory
            _sync(directory)
            self._publish(directory, key)
        finally:
            os.close(lock)
            shutil.rmtree(directory, ignore_errors=True)

    def tidy(self, keep: str) -> None:
        """Remove what killed processes left, and the least recently used entries above the limit, but not `keep`."""
        with self._lock(ROOT_LOCK):
            self._sweep()
            entries: dict[Path, tuple[float, int]] = {}
            for path in self.root.iterdir():
                with suppress(OSError):  # another process removes it
                    entries[path] = (path / META).stat().st_mtime, _size(path)
            total = sum(size for _, size in entries.values())
            for path, (_, size) in sorted(entries.items(), key=lambda entry: entry[1]):
                if total > self.limit and path.name != keep and _remove(path, path / META):
                    total -= size
                    say(f"data: removed prepared rows from the cache ({gib(size)}, least recently used)")

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for path in self.root.glob(f".*{PARTIAL}"):
            _remove(path, path)

    def _publish(self, directory: Path, key: str) -> None:
        target = self.root / key
        try:
            os.replace(directory, target)
        except OSError as error:
            if error.errno not in OCCUPIED:
                raise
            if not (target / META).is_file():  # what a removal left; else, another process was first
                shutil.rmtree(target, ignore_errors=True)
                os.replace(directory, target)
        _sync(self.root)

    @contextmanager
    def _lock(self, name: str, waiting: str = "") -> Iterator[None]:
        """Hold a named lock, if the file system has locks. Raises FileError if the cache is not writable."""
        try:
            private_directory(self.root)
            (self.root / LOCKS).mkdir(exist_ok=True)
            file = os.open(self.root / LOCKS / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileError(
                f"{self.root} can't be written ({error.strerror}): prepared rows are stored there; fix its owner or"
                " mode, or set BURNISH_CACHE to a different directory"
            ) from None
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    say(f"data: {waiting}")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # no locks here: two processes may prepare the same rows
                pass
            yield
        finally:
            os.close(file)


def _remove(path: Path, locked: Path) -> bool:
    """Remove an entry, unless another process uses it."""
    try:
        age = time.time() - locked.stat().st_mtime
        lock, held = _locked(locked, fcntl.LOCK_EX)
    except OSError:
        return False
    try:
        if not held and age < ABANDONED_S:
            return False
        (path / META).unlink(missing_ok=True)  # without it, what is left is not an entry
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
    return True


def _locked(path: Path, kind: int) -> tuple[int, bool]:
    """Return an open file, and whether it is locked, if that is supported. Raises OSError if another has it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:
        return file, False
    return file, True


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())
