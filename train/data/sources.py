"""Open the data files: the training rows, and the held-out rows from the eval file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from burnish.data.columns.mapping import ColumnMap, parse_columns
from burnish.data.columns.reading import Reading, decide
from burnish.data.columns.transcript import Transcript, parse_transcript
from burnish.data.files import DataError, RawRow, data_sha256, iter_rows
from burnish.data.formats import Converter

from ..settings import DataSection

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FIRST_ROWS = 1000  # the rows that decide the format and which columns there are


@dataclass
class Opened:
    """A data file that is being read: its `first` rows, and the `rest`, which are read as they are needed.

    `reading` says how rows become examples; `how` says how the file was read, once its last row has been read.
    """

    path: str
    reading: Reading
    first: list[RawRow]
    rest: Iterator[RawRow]
    how: list[str] = field(default_factory=list)

    @property
    def format(self) -> str:
        """The format of the rows."""
        return self.reading.format

    @property
    def chats(self) -> bool:
        """Whether rows are conversations rather than plain texts."""
        return self.format != "text"

    def converter(self, data: DataSection) -> Converter:
        """Return the converter of its rows."""
        return Converter(self.format, self.path, data.newlines, data.tool_faults, self.reading.reshape)

    def rows(self) -> Iterator[RawRow]:
        """Return all rows, once."""
        return chain(self.first, self.rest)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The opened data file, and the opened eval file (None without one)."""

    train: Opened
    heldout: Opened | None
    data_sha256: str
    eval_sha256: str | None


def check_files(data: DataSection) -> None:
    """Raise DataError listing the data files that don't exist."""
    for setting, name in (("data.path", data.path), ("data.eval_path", data.eval_path)):
        if name and URL.match(name):
            way = f": curl -LO {shlex.quote(name)}" if name.lower().startswith("http") else ""
            raise DataError(f"{setting} {name}: is a URL, expected a file: download it first{way}")
    given = {"data.path": data.path, "data.eval_path": data.eval_path}
    missing = [f"{key} {path}: no such file" for key, path in given.items() if path and not Path(path).exists()]
    if missing:
        raise DataError(missing)


def read_sources(data: DataSection) -> Sources:
    """Open data.path and data.eval_path. Raises DataError if a file is missing, or not of a known kind."""
    check_files(data)
    train = open_rows(data.path, data)
    heldout = open_rows(data.eval_path, data) if data.eval_path else None
    if heldout is not None:
        _check_kind(heldout, train)
    return Sources(
        train=train,
        heldout=heldout,
        data_sha256=data_sha256(Path(data.path)),
        eval_sha256=data_sha256(Path(data.eval_path)) if data.eval_path else None,
    )


def open_rows(name: str, data: DataSection) -> Opened:
    """Open one file and read its first rows. Raises DataError if they are of no known kind."""
    how: list[str] = []
    rows = iter_rows(Path(name), how)
    first: list[RawRow] = []
    try:
        first.extend(islice(rows, FIRST_ROWS))
    except DataError as error:  # reported with the other rows' faults
        if not first:
            raise
        rows = _raising(error)
    return Opened(name, decide(first, name, data.format, *reshaping(data)), first, rows, how)


def _raising(error: DataError) -> Iterator[RawRow]:
    yield from ()
    raise error


def _check_kind(heldout: Opened, trained: Opened) -> None:
    """Raise DataError if one file contains chats and the other plain texts."""
    if heldout.chats == trained.chats:
        return
    kinds = {False: "plain texts", True: "chats"}
    raise DataError(
        f"data.eval_path {heldout.path}: its rows are {kinds[heldout.chats]} ({heldout.format}), those of"
        f" data.path {trained.path} {kinds[trained.chats]} ({trained.format}): the exam must match the training"
        " data; use rows of the same kind"
    )


def reshaping(data: DataSection) -> tuple[ColumnMap | None, Transcript | Literal["auto", "none"]]:
    """Return the templates of data.columns and the marks of data.transcript."""
    columns = None if data.columns is None else parse_columns(data.columns)
    if data.transcript == "auto":
        return columns, "auto"
    return columns, "none" if data.transcript == "none" else parse_transcript(data.transcript)
