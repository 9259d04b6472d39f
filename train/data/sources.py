"""Read the data files: the training rows, and the held-out rows from the eval file."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from burnish.console import counted, say, warn
from burnish.data.columns.mapping import ColumnMap, parse_columns
from burnish.data.columns.reading import decide
from burnish.data.columns.transcript import Transcript, parse_transcript
from burnish.data.files import DataError, data_sha256, iter_rows
from burnish.data.formats import Conversion, Converter, Example

from ..settings import DataSection
from .split import without_overlap

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FIRST_ROWS = 1000  # the rows that decide the format and which columns there are


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The rows of the data files.

    `read` contains all rows in data.path, `train` the rows that may be trained. `heldout` contains the eval file's
    rows (None without an eval file); `shared` counts the held-out rows that are also in data.path.
    """

    format: str
    read: list[Example]
    train: list[Example]
    heldout: list[Example] | None
    shared: int
    data_sha256: str
    eval_sha256: str | None

    @property
    def chats(self) -> bool:
        """Whether rows are conversations rather than plain texts."""
        return self.format != "text"

    @property
    def unit(self) -> str:
        """The unit of row numbers: "line" or "row"."""
        return self.read[0].unit


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
    """Read data.path and data.eval_path. Raises DataError if a file is missing or malformed, or they share rows."""
    check_files(data)
    converted = _read(data.path, data)
    train, heldout, shared = list(converted.examples), None, 0
    if data.eval_path:
        heldout = list(_same_kind(_read(data.eval_path, data), converted, data).examples)
        train, shared = without_overlap(converted.examples, heldout, data)
    return Sources(
        format=converted.format,
        read=list(converted.examples),
        train=train,
        heldout=heldout,
        shared=shared,
        data_sha256=data_sha256(Path(data.path)),
        eval_sha256=data_sha256(Path(data.eval_path)) if data.eval_path else None,
    )


def _same_kind(heldout: Conversion, trained: Conversion, data: DataSection) -> Conversion:
    """Return the held-out rows. Raises DataError if one file contains chats and the other plain texts."""
    if (heldout.format == "text") == (trained.format == "text"):
        return heldout
    kinds = {True: "plain texts", False: "chats"}
    raise DataError(
        f"data.eval_path {data.eval_path}: its rows are {kinds[heldout.format == 'text']} ({heldout.format}), those of"
        f" data.path {data.path} {kinds[trained.format == 'text']} ({trained.format}): the exam must match the training"
        " data; use rows of the same kind"
    )


def _read(name_of_file: str, data: DataSection) -> Conversion:
    path = Path(name_of_file)
    how: list[str] = []
    rows = iter_rows(path, how)
    first = list(islice(rows, FIRST_ROWS))
    reading = decide(first, str(path), data.format, *reshaping(data))
    converter = Converter(reading.format, str(path), data.newlines, data.tool_faults, reading.reshape)
    faults: list[str] = []
    examples: list[Example] = []
    try:
        for raw in chain(first, rows):
            examples += [example] if (example := converter.add(raw)) is not None else []
    except DataError as error:  # the reader's errors come last
        faults += error.faults
    if faults or converter.faults:
        raise DataError([*faults, *converter.faults])
    converted = replace(converter.conversion(), examples=tuple(examples))
    say(
        f"data: {path}: {counted(len(converted.examples), 'row')}, format {reading.format}"
        + (f" ({reading.how})" if reading.how else "")
    )
    for remark in (*how, *converted.remarks):
        say(f"data: {path}: {remark}")
    for note in converted.notes:
        warn(f"{path}: {note}")
    if converted.unused_columns:
        used = ", ".join(f"{column} ({counted(count, 'row')})" for column, count in converted.unused_columns.items())
        say(f"data: unused columns: {used}")
    return converted


def reshaping(data: DataSection) -> tuple[ColumnMap | None, Transcript | Literal["auto", "none"]]:
    """Return the templates of data.columns and the marks of data.transcript."""
    columns = None if data.columns is None else parse_columns(data.columns)
    if data.transcript == "auto":
        return columns, "auto"
    return columns, "none" if data.transcript == "none" else parse_transcript(data.transcript)
