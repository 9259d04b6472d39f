"""Read a file's bytes in pieces: decompress compressed files, and reject known file types that are not data.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import IO, Protocol, TypeVar

from ..machine import memory_available_bytes
from .faults import DataError
from .reading.part import Part, Unpacked

SUPPORTED = "supported: JSON, JSONL, CSV, Parquet and Arrow, plain, zipped or compressed with gzip, bzip2, xz or zstd"
CHUNK_BYTES = 1 << 20

Piece = TypeVar("Piece", bytes, str)
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


def read_pieces(part: Part, unpacked: Unpacked | None = None) -> Iterator[bytes]:
    """Yield a data file's decompressed bytes, the first piece with at least its first CHUNK_BYTES.

    Raises DataError if the file can't be read, is not a data file, or unpacks to more than its size allows; for a file
    in an archive, with the others counted in `unpacked`, than the archive's size allows.
    """
    try:
        with part.open() as file:
            head = file.read(CHUNK_BYTES)
            packing = _packing(head)
            if packing is None:
                _refuse(head, part, "", file)
                yield head
                while piece := file.read(CHUNK_BYTES):
                    yield piece
            else:
                file.seek(0)
                yield from _unpacked(file, packing, part, unpacked or Unpacked())
    except OSError as error:
        raise DataError(f"{part.title} can't be read: {error.strerror or error}") from None


def read_whole(part: Part, pieces: Iterator[bytes]) -> bytes:
    """Join the pieces. Raises DataError if they take more than a quarter of the available memory."""
    return b"".join(_within_memory(part, pieces))


def whole_text(part: Part, pieces: Iterator[str]) -> str:
    """Join the pieces of a text. Raises DataError if they take more than a quarter of the available memory."""
    return "".join(_within_memory(part, pieces))


def _within_memory(part: Part, pieces: Iterator[Piece]) -> Iterator[Piece]:
    total, most = 0, memory_available_bytes() // 4
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise DataError(
                f"{part.title} is larger than {most / 2**20:,.0f} MiB, a quarter of the available memory: save the rows"
                " as JSONL, which is read row by row"
            )
        yield piece


def _unpacked(file: IO[bytes], packing: str, part: Part, unpacked: Unpacked) -> Iterator[bytes]:
    pieces, what = _unpack(file, packing, part, unpacked), f"is {packing}-compressed, and its content"
    head = b""
    while len(head) < CHUNK_BYTES and (piece := next(pieces, None)) is not None:
        head += piece
    if (again := _packing(head)) is not None:
        raise DataError(f"{part.title} is {packing}-compressed, and its content is {again}-compressed: unpack it first")
    _refuse(head, part, f"{what} ", None)
    yield from chain([head], pieces)


def _packing(data: bytes) -> str | None:
    return next((name for name, (magics, _) in PACKINGS.items() if data.startswith(magics)), None)


def _refuse(data: bytes, part: Part, head: str, file: IO[bytes] | None) -> None:
    """Raise DataError if a file that begins with `data` is not data; a zip archive's names are read from `file`."""
    if data.startswith(ARROW_MAGICS):
        return
    for magic, why in FOREIGN.items():
        if data.startswith(magic):
            raise DataError(f"{part.title} {head}{why} ({SUPPORTED})")
    if data.startswith(ZIP_MAGICS):
        raise DataError(f"{part.title} {head}{_zip(file or io.BytesIO(data))} ({SUPPORTED})")
    if _is_tar(data):
        raise DataError(
            f"{part.title} {head}is a tar archive: unpack it and pass the file or the directory ({SUPPORTED})"
        )
    if len(data) > 1 and not (any(data[1:100:2]) and any(data[:100:2])):
        raise DataError(f"{part.title} {head}is UTF-16 text without a byte order mark: save it as UTF-8 ({SUPPORTED})")


def is_zip(data: bytes) -> bool:
    """Return whether the bytes begin a zip archive."""
    return data.startswith(ZIP_MAGICS)


def _zip(file: IO[bytes]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return "is a zip archive or a spreadsheet that can't be opened; it may be truncated"
    return office(names) or f"is a zip archive of {len(names)} files: unpack it and pass the file or the directory"


def office(names: Sequence[str]) -> str:
    """Return the kind of an office document from the names in its archive; "" if it is not one."""
    return next((why for start, why in ZIPPED.items() if any(name.startswith(start) for name in names)), "")


def _is_tar(data: bytes) -> bool:
    """Return whether the file begins with a valid tar header checksum: old archives have no magic bytes."""
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _unpack(file: IO[bytes], packing: str, part: Part, unpacked: Unpacked) -> Iterator[bytes]:
    """Decompress a file in pieces, so that a bomb is detected before it fills the memory."""
    limit, why = unpacked_limit(part.file_bytes())
    try:
        for piece in PACKINGS[packing][1](file):
            unpacked.bytes += len(piece)
            if unpacked.bytes > limit:
                raise DataError(
                    f"{part.title} is {packing}-compressed and unpacks to more than {limit / 2**20:,.0f} MiB, {why}:"
                    " if that size is intended, unpack it first"
                )
            yield piece
    except ImportError:
        raise DataError(f"{part.title} is {packing}-compressed, which needs pyarrow: unpack it first") from None
    except EOFError:
        raise DataError(f"{part.title} is {packing}-compressed and truncated: download or compress it again") from None
    except (OSError, zlib.error, lzma.LZMAError, ValueError, MemoryError) as error:
        raise DataError(f"{part.title} is {packing}-compressed and can't be unpacked: {error}") from None


def unpacked_limit(packed: int) -> tuple[int, str]:
    """Return the maximum decompressed size of a file of `packed` bytes, and the reason for that limit."""
    return max(MAX_UNPACKED_BYTES, MAX_RATIO * packed), f"the limit for a file of {packed:,} bytes"


class _Decompressor(Protocol):
    """The interface shared by bz2.BZ2Decompressor and lzma.LZMADecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _streams(file: IO[bytes], make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress concatenated streams in pieces of at most CHUNK_BYTES; zero padding may follow."""
    left = file.read(CHUNK_BYTES)
    while left.strip(b"\0"):
        stream = make()
        while not stream.eof:
            piece = b""
            if stream.needs_input:
                piece, left = left or file.read(CHUNK_BYTES), b""
                if not piece:
                    raise EOFError
            yield stream.decompress(piece, CHUNK_BYTES)
        left = stream.unused_data or file.read(CHUNK_BYTES)


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while piece := unpacked.read(CHUNK_BYTES):
            yield piece


def _bzip2(file: IO[bytes]) -> Iterator[bytes]:
    return _streams(file, bz2.BZ2Decompressor)


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    return _streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=MAX_XZ_BYTES))


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    import pyarrow as pa  # the standard library includes zstd only from Python 3.14

    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as unpacked:
        while piece := unpacked.read(CHUNK_BYTES):
            yield piece


PACKINGS: Mapping[str, tuple[tuple[bytes, ...], Callable[[IO[bytes]], Iterator[bytes]]]] = {
    "gzip": ((b"\x1f\x8b",), _gzip),
    "bzip2": (tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)), _bzip2),
    "xz": ((b"\xfd7zXZ\x00", b"\x5d\x00\x00"), _xz),
    "zstd": ((b"\x28\xb5\x2f\xfd",), _zstd),
}
