"""A part of a dataset: a file, or a file in a zip archive."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from ...files import HASH_CHUNK_BYTES, open_regular, regular


@dataclass
class Unpacked:
    """The bytes that compressed files were unpacked to so far; the files of one archive share its limit."""

    bytes: int = 0


@dataclass(frozen=True)
class Part:
    """A file to read rows from; `member` is its name in the zip archive `path`, "" for a separate file.

    `name` identifies the part in its dataset, `title` in messages. `place` is its path in the dataset, if that has
    directories; `label` replaces its path in messages, such as the URL of a downloaded file.
    """

    path: Path
    member: str = ""
    label: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        return self.place or self.member or self.path.name

    @property
    def title(self) -> str:
        return f"{self.label or self.path}{f': {self.member}' if self.member else ''}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the part for reading. Raises OSError if it can't be opened."""
        if not self.member:
            with open_regular(self.path) as file:
                yield file
        else:
            try:
                with _archive(self.path).open(self.member) as member:
                    yield member
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
                raise OSError(0, f"unpacking failed: {error}", str(self.path)) from None

    def packed_bytes(self) -> int:
        """Return the number of bytes on disk. Raises OSError."""
        if not self.member:
            return self.file_bytes()
        try:
            return _archive(self.path).getinfo(self.member).compress_size
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, KeyError) as error:
            raise OSError(0, f"it can't be unpacked: {error}", str(self.path)) from None

    def file_bytes(self) -> int:
        """Return the size of the part's file, of the whole archive for a file in one. Raises OSError."""
        return os.stat(self.path).st_size

    def sha256(self) -> str:
        """Return the sha256 of the part's bytes as stored in the file or archive. Raises OSError."""
        digest = hashlib.sha256()
        with self.open() as file:
            while piece := file.read(HASH_CHUNK_BYTES):
                digest.update(piece)
        return digest.hexdigest()


def _archive(path: Path) -> zipfile.ZipFile:
    """Return the archive, opened once per process and version: its list of files may be long."""
    found = os.stat(path)
    return _opened(path, os.getpid(), (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=1)
def _opened(path: Path, process: int, version: tuple[int, int, int]) -> zipfile.ZipFile:
    return zipfile.ZipFile(regular(path))
