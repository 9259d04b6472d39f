"""Read a file's bytes: decompress compressed files, and reject known file types that are not data.

File types are recognised by their first bytes, not by name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from ..files import read_regular
from ..machine import memory_available_bytes
from .faults import DataError

SUPPORTED = "supported: JSON, JSONL, CSV, Parquet and Arrow, plain or compressed with gzip, bzip2, xz or zstd"
CHUNK_BYTES = 1 << 20
# Text compresses 3 to 50 times, repetitive rows 200 times. A higher ratio is a bomb or needs inspection.
MAX_UNPACKED_BYTES, MAX_RATIO = 256 << 20, 200
# memory limit for decompressing an .xz file: xz -9 needs 65 MiB
MAX_XZ_BYTES = 512 << 20

# file types passed by mistake, by their first bytes
FOREIGN: Mapping[bytes, str] = {
    b"\x04\x22\x4d\x18": "is lz4-compressed: unpack it first",
    b"\x1f\x9d": "is compressed by `compress` (.Z): unpack it first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it and pass the file or the directory",
    b"Rar!\x1a\x07": "is a RAR archive: unpack it and pass the file or the directory",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "is an old Office file, such as an .xls sheet: save the sheet as CSV (UTF-8)",
    b"\x09\x08": "is an old Excel sheet (.xls): save the sheet as CSV (UTF-8)",
    b"%PDF": "is a PDF: convert its text to rows first",
    b"{\\rtf": "is a rich text document: convert its text to rows first",
    b"SQLite format 3\x00": "is an SQLite database: save its rows as JSONL or CSV",
    b"\x89HDF\r\n\x1a\n": "is an HDF5 file: save its rows as JSONL or Parquet",
    b"\x93NUMPY": "is a numpy array: save its rows as JSONL",
    b"\x80\x02": "is a Python pickle, which can run code: save its rows as JSONL",
    b"\x80\x03": "is a Python pickle, which can run code: save its rows as JSONL",
    b"\x80\x04": "is a Python pickle, which can run code: save its rows as JSONL",
    b"\x80\x05": "is a Python pickle, which can run code: save its rows as JSONL",
    b"Obj\x01": "is an Avro file: save its rows as Parquet or JSONL",
    b"FEA1": "is a Feather file of version 1: save its rows as Parquet or JSONL",
    b"GGUF\x03\x00": "is a model (GGUF), not data",
    b"\x89PNG": "is an image, not data",
    b"\xff\xd8\xff": "is an image, not data",
    b"\x00\x00\xfe\xff": "is UTF-32 text: save it as UTF-8",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the data itself: fetch it with `git lfs pull`",
    b"<": "is a web page or XML, not data: was the page saved instead of the raw file?",
}
ZIPPED = {
    "xl/": "is an Excel workbook (.xlsx): save the sheet as CSV (UTF-8)",
    "word/": "is a Word document: convert its text to rows first",
    "ppt/": "is a PowerPoint file: convert its text to rows first",
    "content.xml": "is an OpenDocument file, as saved by LibreOffice: save the sheet as CSV (UTF-8)",
}
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
ARROW_MAGICS = (b"ARROW1", b"\xff\xff\xff\xff")


def read_bytes(path: Path) -> bytes:
    """Return a data file's decompressed bytes. Raises DataError if it can't be read or is not a data file.

    The decompressed size is limited by the compression ratio and to a quarter of the available memory.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None
    if (packing := _packing(data)) is None:
        _refuse(data, path, "")
        return data
    unpacked = _unpack(data, packing, path)
    if (again := _packing(unpacked)) is not None:
        raise DataError(f"{path}: is {packing}-compressed, and its content is {again}-compressed: unpack it first")
    _refuse(unpacked, path, f"is {packing}-compressed, and its content ")
    return unpacked


def _packing(data: bytes) -> str | None:
    return next((name for name, (magics, _) in PACKINGS.items() if data.startswith(magics)), None)


def _refuse(data: bytes, path: Path, head: str) -> None:
    if data.startswith(ARROW_MAGICS):
        return
    for magic, why in FOREIGN.items():
        if data.startswith(magic):
            raise DataError(f"{path}: {head}{why} ({SUPPORTED})")
    if data.startswith(ZIP_MAGICS):
        raise DataError(f"{path}: {head}{_zip(data)} ({SUPPORTED})")
    if _is_tar(data):
        raise DataError(f"{path}: {head}is a tar archive: unpack it and pass the file or the directory ({SUPPORTED})")
    if len(data) > 1 and not (any(data[1:100:2]) and any(data[:100:2])):
        raise DataError(f"{path}: {head}is UTF-16 text without a byte order mark: save it as UTF-8 ({SUPPORTED})")


def _zip(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return "is a zip archive or a spreadsheet that can't be opened; it may be truncated"
    for start, why in ZIPPED.items():
        if any(name.startswith(start) for name in names):
            return why
    return f"is a zip archive of {len(names)} files: unpack it and pass the file or the directory"


def _is_tar(data: bytes) -> bool:
    """Return whether the file begins with a valid tar header checksum: old archives have no magic bytes."""
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _unpack(data: bytes, packing: str, path: Path) -> bytes:
    """Decompress a file in chunks, so that a bomb is detected before it fills the memory."""
    limit, why = unpacked_limit(len(data))
    unpacked = io.BytesIO()
    try:
        for piece in PACKINGS[packing][1](data):
            unpacked.write(piece)
            if unpacked.tell() > limit:
                raise DataError(
                    f"{path}: is {packing}-compressed and unpacks to more than {limit / 2**20:,.0f} MiB, {why}: if that"
                    " size is intended, unpack it first"
                )
    except ImportError:
        raise DataError(f"{path}: is {packing}-compressed, which needs pyarrow: unpack it first") from None
    except EOFError:
        raise DataError(f"{path}: is {packing}-compressed and truncated: download or compress it again") from None
    except (OSError, zlib.error, lzma.LZMAError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: is {packing}-compressed and can't be unpacked: {error}") from None
    return unpacked.getvalue()


def unpacked_limit(packed: int) -> tuple[int, str]:
    """Return the maximum decompressed size of a file of `packed` bytes, and the reason for that limit."""
    memory, by_ratio = memory_available_bytes() // 4, max(MAX_UNPACKED_BYTES, MAX_RATIO * packed)
    if memory < by_ratio:
        return memory, "a quarter of the available memory"
    return by_ratio, f"the limit for a file of {packed:,} bytes"


class _Decompressor(Protocol):
    """The interface shared by bz2.BZ2Decompressor and lzma.LZMADecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _streams(data: bytes, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress concatenated streams in chunks of at most CHUNK_BYTES; zero padding may follow."""
    position = 0
    while data[position : position + CHUNK_BYTES].strip(b"\0"):
        stream = make()
        while not stream.eof:
            piece = b""
            if stream.needs_input:
                piece = data[position : position + CHUNK_BYTES]
                position += len(piece)
                if not piece:
                    raise EOFError
            yield stream.decompress(piece, CHUNK_BYTES)
        position -= len(stream.unused_data)


def _gzip(data: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _bzip2(data: bytes) -> Iterator[bytes]:
    return _streams(data, bz2.BZ2Decompressor)


def _xz(data: bytes) -> Iterator[bytes]:
    return _streams(data, lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MAX_XZ_BYTES))


def _zstd(data: bytes) -> Iterator[bytes]:
    import pyarrow as pa  # the standard library includes zstd only from Python 3.14

    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


PACKINGS: Mapping[str, tuple[tuple[bytes, ...], Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": ((b"\x1f\x8b",), _gzip),
    "bzip2": (tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)), _bzip2),
    "xz": ((b"\xfd7zXZ\x00", b"\x5d\x00\x00"), _xz),
    "zstd": ((b"\x28\xb5\x2f\xfd",), _zstd),
}
