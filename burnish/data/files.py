"""Read rows with line numbers from JSONL, JSON, CSV, Parquet and Arrow files, alone or as parts of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..files import tree_digest
from .faults import DataError
from .reading.content import read_part
from .reading.part import Part, Unpacked
from .reading.row import RawRow, Unit, place
from .sources.locate import Located, locate

__all__ = ["DataError", "Located", "Part", "RawRow", "Unit", "data_sha256", "iter_rows", "locate", "place", "read_rows"]


def read_rows(source: Path | Located, notes: list[str] | None = None) -> list[RawRow]:
    """Return all rows that `iter_rows` yields. Raises DataError with every error."""
    return list(iter_rows(source, notes))


def iter_rows(source: Path | Located, notes: list[str] | None = None) -> Iterator[RawRow]:
    """Yield the rows of a dataset as they are read, so that they need not fit into memory.

    Anything skipped or specially interpreted is added to `notes` by the time the last row is read. Raises DataError
    with every error after the last row; a caller that reports errors of its own adds these to them.
    """
    notes = [] if notes is None else notes
    located = source if isinstance(source, Located) else locate(str(source))
    notes += located.notes
    if not located.several:
        return read_part(located.parts[0], notes)
    return _all_parts(located, notes)


def data_sha256(source: Path | Located) -> str:
    """Return the sha256 of a data file, or one over a dataset's parts. Raises DataError."""
    located = source if isinstance(source, Located) else locate(str(source))
    try:
        if not located.several and not located.parts[0].member:
            return located.parts[0].sha256()
        return tree_digest({part.name: part.sha256() for part in located.parts})
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from None


def _all_parts(located: Located, notes: list[str]) -> Iterator[RawRow]:
    faults: list[str] = []
    counts: list[str] = []
    first, total, unpacked = len(notes), 0, Unpacked()
    for part in located.parts:
        of_part: list[str] = []
        before = total
        try:
            for row in read_part(part, of_part, unpacked if part.member else None):
                total += 1
                yield replace(row, row=total, unit="row", file=part.name)
        except DataError as error:
            faults += error.faults
            continue
        counts.append(f"{part.name} (rows {before + 1} to {total})")
        notes += [f"{part.name}: {note}" for note in of_part]
    if faults:
        raise DataError(faults)
    notes.insert(first - len(located.notes), f"{located.kind}, read as one dataset: {', '.join(counts)}")
