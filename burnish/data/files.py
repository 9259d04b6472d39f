"""Read rows with line numbers from JSONL, JSON, CSV, Parquet and Arrow, detected by content, then extension."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from ..console import listed
from ..files import file_sha256, tree_digest
from .arrow import ArrowError, is_arrow, read_arrow
from .compression import SUPPORTED, read_bytes
from .csv_scanner import scan_csv
from .faults import DataError
from .json_scanner import scan_json
from .tables import unfold

__all__ = ["DataError", "RawRow", "Unit", "place", "read_rows"]

JSON_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})
CSV_SUFFIXES = frozenset({".csv", ".tsv"})
PACKED_SUFFIXES = frozenset({".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd"})
DATA_SUFFIXES = JSON_SUFFIXES | CSV_SUFFIXES | {".parquet", ".arrow", ".feather"}
# metadata files that `datasets` and other tools write next to the parts
DESCRIPTIONS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"}
)
EVALUATION = frozenset({"test", "eval", "evaluation", "valid", "validation", "val", "dev", "heldout", "holdout"})
MAX_NAMES_SHOWN = 5

Unit = Literal["line", "row"]


@dataclass(frozen=True)
class RawRow:
    """One row of a data file: `line` is its first line, `row` its number, both starting at 1.

    `unit` is the unit that messages use for locations: "line", or "row" where rows share a line (minified JSON) and
    in Parquet, whose rows have line 0. In a directory of parts, `file` is the row's part, and `row` is counted over
    all parts.
    """

    line: int
    value: Any
    row: int = 0
    unit: Unit = "line"
    file: str = ""

    @property
    def where(self) -> str:
        """The row's location in the file, for messages."""
        return place(self.line, self.row, self.unit, self.file)


def read_rows(path: Path, notes: list[str] | None = None) -> list[RawRow]:
    """Return the rows of a data file or of a directory of parts. Raises DataError with every fault.

    Anything skipped or specially interpreted is added to `notes`.
    """
    notes = [] if notes is None else notes
    return _directory(path, notes) if path.is_dir() else _file(path, notes)


def data_sha256(path: Path) -> str:
    """Return the sha256 of a data file, or one over the parts read from a directory. Raises DataError."""
    try:
        if not path.is_dir():
            return file_sha256(path)
        return tree_digest({part.name: file_sha256(part) for part in _find_parts(path, [])})
    except OSError as error:
        raise DataError(f"{error.filename}: can't be read: {error.strerror}") from None


def place(line: int, row: int, unit: Unit, file: str = "") -> str:
    """Return "line 3", "line 1, row 37" where rows share lines, or "row 37" in a file without lines."""
    here = f"line {line}" if unit == "line" else f"line {line}, row {row}" if line else f"row {row}"
    return f"{file} {here}" if file else here


def _directory(path: Path, notes: list[str]) -> list[RawRow]:
    rows: list[RawRow] = []
    faults: list[str] = []
    counts: list[str] = []
    for part in _find_parts(path, notes):
        of_part: list[str] = []
        try:
            found = _file(part, of_part)
        except DataError as error:
            faults += error.faults
            continue
        counts.append(f"{part.name} (rows {len(rows) + 1} to {len(rows) + len(found)})")
        notes += [f"{part.name}: {note}" for note in of_part]
        rows += [replace(row, row=len(rows) + n, unit="row", file=part.name) for n, row in enumerate(found, start=1)]
    if faults:
        raise DataError(faults)
    notes.insert(0, f"a directory, read as one dataset: {', '.join(counts)}")
    return rows


def _find_parts(directory: Path, notes: list[str]) -> list[Path]:
    """Return a directory's data files, sorted by name; add other non-hidden files to `notes`.

    Raises DataError if there are none, or if they are not parts of one dataset: a training file next to an evaluation
    file, or the same table in two file types.
    """
    try:
        there = sorted(path for path in directory.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise DataError(f"{directory}: can't be read: {error.strerror}") from None
    parts = [path for path in there if _is_part(path)]
    read = set(parts)
    others = [path.name + ("/" if path.is_dir() else "") for path in there if path not in read]
    if not parts:
        found = f"it has {listed(others, MAX_NAMES_SHOWN)}" if others else "it is empty"
        raise DataError(f"{directory}: is a directory without data files ({found}): pass a data file or its directory")
    _check_splits(directory, parts)
    _check_twice(directory, parts)
    if others:
        notes.append(f"not read: {listed(others, MAX_NAMES_SHOWN)}")
    return parts


def _check_splits(directory: Path, parts: list[Path]) -> None:
    held = [path.name for path in parts if EVALUATION.intersection(re.split(r"[^a-z]+", path.name.lower()))]
    if held and len(held) < len(parts):
        raise DataError(
            f"{directory}: by name, {listed(held, MAX_NAMES_SHOWN)} {'is' if len(held) == 1 else 'are'} for evaluation:"
            " set data.path to the training file and data.eval_path to the evaluation file"
        )


def _check_twice(directory: Path, parts: list[Path]) -> None:
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in parts:
        names[path.name.split(".")[0]].append(path.name)
    twice = [both for both in names.values() if len({_kind(Path(name)) for name in both}) > 1 or _packed_beside(both)]
    if twice:
        raise DataError(f"{directory}: {' and '.join(twice[0])} look like the same table twice: pass one of them")


def _packed_beside(names: list[str]) -> bool:
    """Return whether a file is present both uncompressed and compressed."""
    plain = {name for name in names if Path(name).suffix.lower() not in PACKED_SUFFIXES}
    return any(name[:end] in plain for name in names for end, mark in enumerate(name) if mark == ".")


def _kind(path: Path) -> str:
    """Return the extension, ignoring compression extensions; "" for a bare number (part-00000)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and (suffixes[-1] in PACKED_SUFFIXES or suffixes[-1][1:].isdecimal()):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_part(path: Path) -> bool:
    kind = _kind(path)
    numbered = not kind and any(character.isdecimal() for character in path.name)
    return path.is_file() and (kind in DATA_SUFFIXES or numbered) and path.name not in DESCRIPTIONS


def _file(path: Path, notes: list[str]) -> list[RawRow]:
    data = read_bytes(path)
    if is_arrow(data):
        try:
            rows = [RawRow(0, value, n, "row") for n, value in enumerate(read_arrow(data), start=1)]
        except ArrowError as error:
            raise DataError(f"{path}: {error}") from None
    else:
        text = _decode(data, path)
        del data  # keep only one copy of a large file in memory
        rows = _text_rows(text, path, notes)
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    if any(row.line == after.line for row, after in pairwise(rows)):
        rows = [replace(row, unit="row") for row in rows]
    return rows


def _text_rows(text: str, path: Path, notes: list[str]) -> list[RawRow]:
    faults: list[str] = []
    rows = [RawRow(line, value, n) for n, (line, value) in enumerate(_parser(text, path)(text, faults, notes), start=1)]
    if faults:
        raise DataError([f"{path}: {fault}" for fault in faults])
    values = unfold([row.value for row in rows], notes)
    if values is None:
        return rows
    if len(values) == len(rows):
        return [replace(row, value=value) for row, value in zip(rows, values, strict=True)]
    return [RawRow(rows[0].line, value, n) for n, value in enumerate(values, start=1)]


def _decode(data: bytes, path: Path) -> str:
    """Decode UTF-8 bytes without the byte order mark. Raises DataError with every line that is not UTF-8."""
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


Parser = Callable[[str, list[str], list[str]], Iterator[tuple[int, Any]]]


def _parser(text: str, path: Path) -> Parser:
    """Choose the parser by the text's first character, then the file extension, then the first line."""
    suffix, start = _suffix(path), text[:1000].lstrip()
    if not start and not text.strip():
        raise DataError(f"{path}: the file is empty")
    if suffix in JSON_SUFFIXES or start.startswith(("{", "[")):
        return _json
    # a quote can start either a bare JSON string or a quoted CSV header
    if suffix in CSV_SUFFIXES or re.match(r'("?)\w+\1[ ]?[,;\t|]|"?sep=|,"?\w', start):
        return scan_csv
    if start.startswith('"'):
        return _json
    raise DataError(f'{path}: unknown kind of file ({SUPPORTED}); write plain text as JSONL: {{"text": "..."}}')


def _suffix(path: Path) -> str:
    """Return the text format's extension in lower case, ignoring compression extensions."""
    names: Sequence[str] = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED_SUFFIXES]
    return names[-1] if names else ""


def _json(text: str, faults: list[str], notes: list[str]) -> Iterator[tuple[int, Any]]:
    return scan_json(text, faults)
