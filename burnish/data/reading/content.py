"""Read the rows of one part, detected by content, then extension: JSONL and JSON row by row, other kinds whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import PurePath
from typing import Any

from ..arrow import ArrowError, is_arrow, read_arrow
from ..compression import SUPPORTED, read_pieces, read_whole, whole_text
from ..csv_scanner import scan_csv
from ..faults import DataError
from ..json_scanner import scan_json
from ..tables import unfold
from .decode import Decoder
from .part import Part, Unpacked
from .row import RawRow

JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd"})
# rows that are read before the first one is yielded, to see whether rows share lines
PEEKED = 1000

Parser = Callable[[Iterator[str], list[str], list[str]], Iterator[tuple[int, Any]]]


def read_part(part: Part, notes: list[str], unpacked: Unpacked | None = None) -> Iterator[RawRow]:
    """Yield the rows of a part while reading it.

    Anything skipped or specially interpreted is added to `notes`; the parts of an archive share `unpacked`. Raises
    DataError with every error at the end, after yielding the valid rows.
    """
    pieces = read_pieces(part, unpacked)
    head = next(pieces, b"")
    whole = chain([head], pieces)
    rows = _arrow_rows(part, whole, unpacked) if is_arrow(head) else _text_rows(part, whole, notes)
    first = list(islice(rows, PEEKED))
    if not first:
        raise DataError(f"{part.title}: the file has no rows")
    shared = any(row.line == after.line for row, after in pairwise(first))
    line = 0
    for row in chain(first, rows):
        shared, line = shared or row.line == line, row.line
        yield replace(row, unit="row") if shared else row


def _arrow_rows(part: Part, pieces: Iterator[bytes], unpacked: Unpacked | None) -> Iterator[RawRow]:
    data = read_whole(part, pieces)
    try:
        for number, value in enumerate(read_arrow(data, part.file_bytes() if part.member else 0, unpacked), start=1):
            yield RawRow(0, value, number, "row")
    except ArrowError as error:
        raise DataError(f"{part.title}: {error}") from None


def _text_rows(part: Part, pieces: Iterator[bytes], notes: list[str]) -> Iterator[RawRow]:
    decoder, faults = Decoder(), list[str]()
    texts = decoder.texts(pieces)
    start = next((text for text in texts if text.strip()), "")
    if decoder.line > 1 + start.count("\n"):  # blank pieces before the first text
        start = "\n" * (decoder.line - 1 - start.count("\n")) + start
    if start or not decoder.faults:
        parser = _parser(start, part)
        yield from _numbered(parser(chain([start], texts), faults, notes), notes)
    for _ in texts:  # after too many errors, the rest is only checked for its encoding
        pass
    if faults := decoder.faults or faults:  # in text that was dropped, other errors would be misleading
        raise DataError([f"{part.title}: {fault}" for fault in faults])


def _numbered(values: Iterator[tuple[int, Any]], notes: list[str]) -> Iterator[RawRow]:
    """Yield the values as rows. A table in one object, or rows that are JSON strings, are converted at once."""
    first = list(islice(values, 2))
    start = first[0][1] if first else None
    is_table = len(first) == 1 and isinstance(start, dict)
    if not is_table and not (isinstance(start, str) and start.lstrip().startswith("{")):
        yield from (RawRow(line, value, n) for n, (line, value) in enumerate(chain(first, values), start=1))
        return
    rows = [RawRow(line, value, n) for n, (line, value) in enumerate(chain(first, values), start=1)]
    unfolded = unfold([row.value for row in rows], notes)
    if unfolded is None:
        yield from rows
    elif len(unfolded) == len(rows):
        yield from (replace(row, value=value) for row, value in zip(rows, unfolded, strict=True))
    else:
        yield from (RawRow(rows[0].line, value, n) for n, value in enumerate(unfolded, start=1))


def _parser(text: str, part: Part) -> Parser:
    """Choose the parser by the text's first character, then the file extension, then the first line."""
    suffix, start = _suffix(part.name), text.lstrip()[:1000]
    if not start:
        raise DataError(f"{part.title}: the file is empty")
    if suffix in JSON_SUFFIXES or start.startswith(("{", "[")):
        return _json
    # a quote can start either a bare JSON string or a quoted CSV header
    if suffix in CSV_SUFFIXES or re.match(r'("?)\w+\1[ ]?[,;\t|]|"?sep=|,"?\w', start):
        return partial(_csv, part)
    if start.startswith('"'):
        return _json
    raise DataError(f'{part.title}: unknown kind of file ({SUPPORTED}); write plain text as JSONL: {{"text": "..."}}')


def _suffix(name: str) -> str:
    """Return the text format's extension in lower case, ignoring compression extensions."""
    lower = [suffix.lower() for suffix in PurePath(name).suffixes]
    names: Sequence[str] = [suffix for suffix in lower if suffix not in PACKED_SUFFIXES]
    return names[-1] if names else ""


def _json(texts: Iterator[str], faults: list[str], notes: list[str]) -> Iterator[tuple[int, Any]]:
    return scan_json(texts, faults)


def _csv(part: Part, texts: Iterator[str], faults: list[str], notes: list[str]) -> Iterator[tuple[int, Any]]:
    return scan_csv(whole_text(part, texts), faults, notes)
