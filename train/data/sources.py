"""Open the data files: the training rows, and the held-out rows from the eval file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from burnish.data.files import DataError, RawRow, data_sha256, locate
from burnish.data.sources.converting import DatasetConverter
from burnish.data.sources.dataset import FIRST_ROWS, Dataset, open_dataset, specs_sha256
from burnish.data.sources.locate import is_remote
from burnish.data.sources.pattern import is_pattern
from burnish.data.sources.section import spec

from ..settings import DataSection

__all__ = ["FIRST_ROWS", "Opened", "Sources", "check_files", "data_hashes", "open_rows", "read_sources"]


@dataclass
class Opened:
    """A dataset that is being read: its `first` rows, and the `rest`, which are read as they are needed."""

    dataset: Dataset
    first: list[RawRow]
    rest: Iterator[RawRow]
    stamp: list[tuple[int, int, int]]

    def check_unchanged(self) -> None:
        """Raise DataError if a file has changed since it was opened: its hash would not be that of the rows."""
        if _stamp(self.dataset) != self.stamp:
            raise DataError(f"{self.path}: changed while it was read: run again when nothing writes to it")

    @property
    def path(self) -> str:
        """The name of the data in messages."""
        return self.dataset.title

    @property
    def format(self) -> str:
        """The format of the rows."""
        return self.dataset.format

    @property
    def chats(self) -> bool:
        """Whether rows are conversations rather than plain texts."""
        return self.dataset.chats

    def converter(self, data: DataSection) -> DatasetConverter:
        """Return what converts its rows."""
        return self.dataset.converter(data.newlines, data.tool_faults)

    def rows(self) -> Iterator[RawRow]:
        """Return all rows, once."""
        return chain(self.first, self.rest)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The opened data, and the opened eval file (None without one)."""

    train: Opened
    heldout: Opened | None
    data_sha256: str
    eval_sha256: str | None


def check_files(data: DataSection) -> None:
    """Raise DataError listing the data files that don't exist."""
    given = [("data.path" if data.sources is None else "data.sources", one.path) for one in data.specs()]
    given += [("data.eval_path", data.eval_path)] if data.eval_path else []
    missing = [
        f"{key} {path}: no such file"
        for key, path in given
        if not is_remote(path) and not is_pattern(path) and not Path(path).exists()
    ]
    if missing:
        raise DataError(missing)


def data_hashes(data: DataSection) -> dict[str, str | None]:
    """Return the sha256 of the data and of the eval file, as a run's start records them; None if they can't be read."""
    found: dict[str, str | None] = {"data_sha256": None, "eval_sha256": None}
    with suppress(DataError):
        check_files(data)
        found["data_sha256"] = specs_sha256(data.specs())
        found["eval_sha256"] = data_sha256(locate(data.eval_path)) if data.eval_path else None
    return found


def read_sources(data: DataSection, seed: int = 0) -> Sources:
    """Open the data and data.eval_path. Raises DataError if a file is missing, or not of a known kind."""
    check_files(data)
    train = _opened(open_dataset(data.specs(), seed, data.max_rows))
    heldout = open_rows(data.eval_path, data) if data.eval_path else None
    if heldout is not None:
        _check_kind(heldout, train)
    return Sources(
        train=train,
        heldout=heldout,
        data_sha256=train.dataset.sha256(),
        eval_sha256=heldout.dataset.sha256() if heldout else None,
    )


def open_rows(name: str, data: DataSection) -> Opened:
    """Open one file, directory, pattern, URL or dataset on the Hub, and read its first rows. Raises DataError."""
    return _opened(open_dataset([spec(name, data)], seed=0))


def _opened(dataset: Dataset) -> Opened:
    """Read a dataset's first rows."""
    stamp, rows = _stamp(dataset), dataset.rows()
    first: list[RawRow] = []
    try:
        first.extend(islice(rows, FIRST_ROWS))
    except DataError as error:  # reported with the other rows' faults
        if not first:
            raise
        rows = _raising(error)
    return Opened(dataset, first, rows, stamp)


def _stamp(dataset: Dataset) -> list[tuple[int, int, int]]:
    """Return what identifies the content of the dataset's files."""
    try:
        stats = [os.stat(part.path) for source in dataset.sources for part in source.located.parts]
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from None
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


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
