"""Arrays on disk, one file each: appended while rows are prepared, then read by position."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from burnish.files import FileError, open_regular

Array = npt.NDArray[Any]
CHUNK_BYTES = 1 << 22

# per example: its place, keys, digests, and the ends of its text, keys and rows in the arrays below
OF_EXAMPLES = {
    "line": "<i8", "row": "<i8", "unit": "u1", "file": "<i4", "prompt": "<u8", "response": "<u8",
    "text_end": "<i8", "key_end": "<i8", "row_end": "<i8",
}  # fmt: skip
OF_ROWS = {"id_end": "<i8", "span_end": "<i8"}
# too large for memory: read by position
LARGE = {"text": "u1", "ids": "<i4"}
FLAT = {"key": "<u8", "span": "<i4", "turn": "<i4", "last": "<i4"}
DTYPES: Mapping[str, str] = {**OF_EXAMPLES, **OF_ROWS, **LARGE, **FLAT}


class ColumnWriter:
    """Appends to the arrays of a directory."""

    def __init__(self, directory: Path) -> None:
        self._files: dict[str, BinaryIO] = {name: (directory / name).open("wb") for name in DTYPES}
        self._sums = dict.fromkeys(DTYPES, 0)

    def append(self, arrays: Mapping[str, Array]) -> None:
        """Append to every array."""
        for name, values in arrays.items():
            data = np.ascontiguousarray(values, dtype=DTYPES[name]).data
            self._sums[name] = zlib.crc32(data, self._sums[name])
            self._files[name].write(data)

    def close(self) -> dict[str, int]:
        """Write everything to the disk; return the CRC-32 of each array."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        return self._sums


class ColumnReader:
    """Reads arrays by position. Reading into a buffer, unlike mapping, keeps no pages in this process's memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._large = {name: self._open(name) for name in LARGE}

    def check(self, sums: Mapping[str, int]) -> None:
        """Raise FileError if an array does not have the checksum that it was written with."""
        for name in DTYPES:
            found = 0
            with self._open(name) as file:
                while data := file.read(CHUNK_BYTES):
                    found = zlib.crc32(data, found)
            if found != sums.get(name):
                raise FileError(f"{self._directory / name} is damaged")

    def whole(self, name: str) -> Array:
        """Return a whole array. Raises FileError if it can't be read."""
        with self._open(name) as file:
            return np.frombuffer(file.read(), dtype=DTYPES[name])

    def part(self, name: str, start: int, end: int) -> Array:
        """Return the elements [start, end) of a large array. Raises FileError if the file is shorter."""
        dtype = np.dtype(DTYPES[name])
        size = (end - start) * dtype.itemsize
        data = os.pread(self._large[name].fileno(), size, start * dtype.itemsize)
        if len(data) != size:
            raise FileError(f"{self._directory / name} is damaged: remove {self._directory}, and run again")
        return np.frombuffer(data, dtype=dtype)

    def _open(self, name: str) -> BinaryIO:
        try:
            return open_regular(self._directory / name)
        except OSError as error:
            raise FileError(f"{self._directory / name} can't be read: {error.strerror}") from None
