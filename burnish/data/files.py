"""Data files → rows with line numbers: JSONL, JSON, CSV and Parquet, recognised by content before extension."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from .json_scanner import scan_json

READ = "JSON, JSONL, CSV and Parquet are read"
PARQUET_MAGIC = b"PAR1"
# what people give by mistake, by its first bytes
FOREIGN = {
    b"\x1f\x8b": "is gzip-compressed: unpack it first",
    b"\x28\xb5\x2f\xfd": "is zstd-compressed: unpack it first",
    b"PK\x03\x04": "is a zip archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
    b"version https://git-lfs": "is a Git LFS pointer, not the data itself: fetch it with `git lfs pull`",
    b"<": "is a web page or XML, not data: was the page saved in place of the raw file?",
}
JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
LARGEST_CELL_CHARACTERS = 1 << 30


class DataError(UserError):
    """A data file that can't be read, or rows in it that are not what was expected: every fault of the file."""


Unit = Literal["line", "row"]


@dataclass(frozen=True)
class RawRow:
    """One row as it stands in the file: `line` is where it starts, `row` its number, both from 1.

    `unit` is what names the rows of this file: "line", or "row" where lines don't: in Parquet, whose rows have line 0,
    and where rows share a line, as in minified JSON.
    """

    line: int
    value: Any
    row: int = 0
    unit: Unit = "line"

    @property
    def where(self) -> str:
        """The row's place in its file, for messages."""
        return place(self.line, self.row, self.unit)


def read_rows(path: Path) -> list[RawRow]:
    """Return the rows of a data file. Raises DataError with every fault that stands in it."""
    data = _bytes(path)
    if data.startswith(PARQUET_MAGIC):
        rows = list(_parquet(data, path))
    else:
        text = _decode(data, path)
        del data  # a big file is held once, not twice
        faults: list[str] = []
        rows = [RawRow(line, value, n) for n, (line, value) in enumerate(_parser(text, path)(text, faults), start=1)]
        if faults:
            raise DataError([f"{path}: {fault}" for fault in faults])
    if not rows:
        raise DataError(f"{path}: there is no row in the file")
    if any(row.line == after.line for row, after in pairwise(rows)):
        rows = [RawRow(row.line, row.value, row.row, "row") for row in rows]
    return rows


def place(line: int, row: int, unit: Unit) -> str:
    """Return "line 3", or "line 1, row 37" where rows share a line, or "row 37" in a file without lines."""
    if unit == "line":
        return f"line {line}"
    return f"line {line}, row {row}" if line else f"row {row}"


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a directory; give one data file ({READ})")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None
    for magic, why in FOREIGN.items():
        if data.startswith(magic):
            raise DataError(f"{path}: {why} ({READ})")
    return data


def _decode(data: bytes, path: Path) -> str:
    """Return the text of UTF-8 bytes, without its byte order mark; name every line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    faults = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.append(f"{path}: line {number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8")
    raise DataError(faults)


Parser = Callable[[str, list[str]], Iterator[tuple[int, Any]]]


def _parser(text: str, path: Path) -> Parser:
    """Choose how to read a text by its first character, then its extension, then its first line."""
    suffix, start = path.suffix.lower(), text[:1000].lstrip()
    if not start and not text.strip():
        raise DataError(f"{path}: the file is empty")
    if suffix in JSON_SUFFIXES or start.startswith(("{", "[")):
        return scan_json
    # a quote opens a bare JSON string as well as a quoted CSV header
    if suffix in CSV_SUFFIXES or re.match(r'("?)\w+\1[,;\t]', start):
        return _csv
    if start.startswith('"'):
        return scan_json
    raise DataError(f'{path}: not a kind of file that is read: {READ}; plain text goes into JSONL, {{"text": "..."}}')


def _csv(text: str, faults: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, row) of a CSV with a header; the separator is the one that the header has most of."""
    csv.field_size_limit(LARGEST_CELL_CHARACTERS)  # the module's own limit is 128 KiB, less than a long answer
    head = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None and cells:
                header = _header([cell.strip() for cell in cells], line, faults)
            elif header is not None and len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif header is not None and cells:
                faults.append(f"line {line}: it has {len(cells)} cells, the header has {len(header)}")
            line = reader.line_num + 1
    except csv.Error as error:
        faults.append(f"line {line}: malformed CSV in the record that begins here: {error}")


def _header(names: list[str], line: int, faults: list[str]) -> list[str]:
    faults += [f"line {line}: the header names '{n}' twice" for n in sorted({n for n in names if names.count(n) > 1})]
    if "" in names:
        faults.append(f"line {line}: column {names.index('') + 1} of the header has no name")
    return names


def _parquet(data: bytes, path: Path) -> Iterator[RawRow]:
    import pyarrow as pa  # heavy: loaded only where a Parquet file is read
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield RawRow(0, value, number, "row")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: malformed Parquet: {error}") from None
