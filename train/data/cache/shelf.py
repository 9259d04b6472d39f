"""The cache of prepared rows: an atomic LRU cache on disk with a size limit."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from burnish.console import gib, say
from burnish.files import FileError, cache_root, private_directory

from .store import META, Store

PARTIAL = ".partial"
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


class Shelf:
    """The entries in a directory; `limit` is their maximum total size in bytes.

    An entry's directory is renamed into place once it is complete on disk. A process that reads an entry holds
    a shared lock on it, one that writes it an exclusive lock: a locked entry is never removed.
    """

    def __init__(self, limit: int, root: Path | None = None) -> None:
        self.limit, self.root = limit, root or cache_root() / "rows"

    def find(self, key: str) -> Store | None:
        """Return the entry for a key and mark it as used; None if it is missing or damaged."""
        directory = self.root / key
        if not (directory / META).is_file():
            return None
        try:
            lock = _locked(directory / META, fcntl.LOCK_SH)
        except OSError:
            return None
        try:
            store = Store(directory)
        except FileError:  # damaged
            os.close(lock)
            _remove(directory, directory / META)
            return None
        weakref.finalize(store, os.close, lock)
        with suppress(OSError):
            os.utime(directory / META)
        return store

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield a new directory that becomes the entry for the key at the end; an exception leaves nothing behind."""
        private_directory(self.root)
        directory = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=PARTIAL, dir=self.root))
        lock = _locked(directory, fcntl.LOCK_EX)
        try:
            yield directory
            _sync(directory)
            try:
                os.replace(directory, self.root / key)
            except OSError as error:
                if error.errno not in OCCUPIED:
                    raise
                if not (self.root / key / META).is_file():  # what a removal left; else, another process was first
                    shutil.rmtree(self.root / key, ignore_errors=True)
                    os.replace(directory, self.root / key)
            _sync(self.root)
        finally:
            os.close(lock)
            shutil.rmtree(directory, ignore_errors=True)

    def tidy(self, keep: str) -> None:
        """Remove leftovers of killed processes, and the least recently used entries above the limit, except `keep`."""
        for path in self.root.glob(f".*{PARTIAL}"):
            _remove(path, path)
        sizes = {path: _size(path) for path in self.root.iterdir() if (path / META).is_file()}
        total = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: (path / META).stat().st_mtime):
            if total > self.limit and path.name != keep and _remove(path, path / META):
                total -= sizes[path]
                say(f"data: removed prepared rows from the cache ({gib(sizes[path])}, least recently used)")


def _remove(path: Path, locked: Path) -> bool:
    """Remove an entry, unless another process uses it."""
    try:
        lock = _locked(locked, fcntl.LOCK_EX)
    except OSError:
        return False
    try:
        (path / META).unlink(missing_ok=True)  # without it, what is left is not an entry
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
    return True


def _locked(path: Path, kind: int) -> int:
    """Return an open, locked file. Raises OSError if another process holds the lock."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:  # a file system without locks
        pass
    return file


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())
