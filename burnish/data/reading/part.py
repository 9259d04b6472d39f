"""A part of a dataset: a file, or a file in a zip archive."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...files import HASH_CHUNK_BYTES, open_regular


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
        with open_regular(self.path) as file:
            if not self.member:
                yield file
                return
            try:
                with zipfile.ZipFile(file) as archive, archive.open(self.member) as member:
                    yield member
            except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, KeyError) as error:
                raise OSError(0, f"unpacking failed: {error}", str(self.path)) from None

    def packed_bytes(self) -> int:
        """Return the number of bytes on disk. Raises OSError."""
        if not self.member:
            return os.stat(self.path).st_size
        with open_regular(self.path) as file, zipfile.ZipFile(file) as archive:
            return archive.getinfo(self.member).compress_size

    def sha256(self) -> str:
        """Return the sha256 of the part's bytes as stored in the file or archive. Raises OSError."""
        digest = hashlib.sha256()
        with self.open() as file:
            while piece := file.read(HASH_CHUNK_BYTES):
                digest.update(piece)
        return digest.hexdigest()
