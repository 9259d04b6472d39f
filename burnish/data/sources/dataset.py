"""One or several sources as one stream of rows: filtered, mixed and numbered, each read in its own format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal

from ...console import counted
from ...files import text_sha256, tree_digest
from ..columns.cells import CellFault, CellLimit, Condition, Reader, filled, missing_names, unknown_names, used_names
from ..columns.mapping import ColumnMap
from ..columns.reading import Reading, columns_of, decide
from ..columns.transcript import Transcript
from ..faults import DataError
from ..files import Located, RawRow, data_sha256, iter_rows, locate
from ..formats import Converter, Misfits, Newlines
from .converting import DatasetConverter, common, short
from .locate import is_remote
from .mix import Asked, choose, counts
from .web import public

FIRST_ROWS = 1000  # the rows that decide the format


@dataclass(frozen=True)
class Spec:
    """The settings of one source: location, format and number of rows."""

    path: str
    format: str = "auto"
    columns: ColumnMap | None = None
    transcript: Transcript | Literal["auto", "none"] = "auto"
    where: Condition | None = None
    share: float | None = None
    rows: int | None = None


@dataclass
class Source:
    """A located source with a known format. `there` is its number of rows, `used` the number per epoch.

    Both are None until all rows have been read. `chosen` marks the rows in use (None: all); `left_out` counts
    the rows for which data.where is false.
    """

    spec: Spec
    located: Located
    reading: Reading
    there: int | None = None
    used: int | None = None
    left_out: int = 0
    chosen: bytearray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.located.title

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the source's files."""
        return data_sha256(self.located)

    def converter(self, newlines: Newlines = "keep", misfits: Misfits = "error") -> Converter:
        """Return a converter for the source's rows."""
        return Converter(self.reading.format, self.title, newlines, misfits, self.reading.reshape)

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows that are used. Raises DataError with every error after the last row."""
        self.notes.clear()
        faults: list[str] = []
        number = passed = taken = 0
        kept = _passing(iter_rows(self.located, self.notes), self.spec.where, self.title, faults)
        while True:
            try:
                raw, passes = next(kept)
            except StopIteration:
                break
            except DataError as error:
                faults += error.faults
                break
            number += 1
            if not passes:
                continue
            if self.chosen is None or (passed < len(self.chosen) and self.chosen[passed]):
                taken += 1
                yield raw
            passed += 1
        self.there, self.used, self.left_out = passed, taken, number - passed
        if faults:
            raise DataError(faults)
        if not passed:
            raise DataError(f"{self.title}: data.where is false for all of its {counted(number, 'row')}")
        if self.left_out:
            self.notes.append(f"{counted(self.left_out, 'row')} of {number:,} left out by data.where")

    def count(self) -> int:
        """Read all rows once; return the number of rows to choose from. Raises DataError with every error."""
        if self.there is None:
            for _ in self.rows():
                pass
        return self.there or 0


def _passing(
    rows: Iterator[RawRow], where: Condition | None, title: str, faults: list[str]
) -> Iterator[tuple[RawRow, bool]]:
    """Yield every row with the value of data.where; evaluation errors are added to `faults`."""
    if where is None:
        yield from ((raw, True) for raw in rows)
        return
    names = used_names((where,))
    for raw in rows:
        try:
            yield raw, isinstance(raw.value, dict) and where.holds(filled(raw.value, names))
        except CellLimit as fault:
            raise DataError(f"{title}: {raw.where}: {fault}") from None
        except CellFault as fault:
            faults.append(f"{title}: {raw.where}: {fault}")


@dataclass(frozen=True)
class Dataset:
    """The sources of a run, in order; `rows` yields the rows of an epoch."""

    sources: tuple[Source, ...]
    seed: int = 0

    @property
    def mixed(self) -> bool:
        """Whether there are several sources; then rows name their source."""
        return len(self.sources) > 1

    @property
    def title(self) -> str:
        """The name of the data in messages."""
        return " + ".join(source.title for source in self.sources)

    @property
    def format(self) -> str:
        """The sources' format, or that they differ."""
        return common([source.reading.format for source in self.sources])

    @property
    def chats(self) -> bool:
        """Whether rows are conversations rather than plain texts."""
        return self.format != "text"

    @property
    def how(self) -> str:
        """What was recognised, for messages."""
        parts = [(short(source.title), source.reading) for source in self.sources]
        if not self.mixed:
            return parts[0][1].how
        return "; ".join(f"{name}: {part.format}{f', {part.how}' if part.how else ''}" for name, part in parts)

    def converter(self, newlines: Newlines = "keep", misfits: Misfits = "error") -> DatasetConverter:
        """Return a converter for the rows."""
        tested = [used_names((where,)) if (where := source.spec.where) else frozenset() for source in self.sources]
        return DatasetConverter([source.converter(newlines, misfits) for source in self.sources], tested)

    def sha256(self) -> str:
        """Return the sha256 of the only source, or one over all."""
        return _sha256_over([(source.spec.path, source.sha256) for source in self.sources])

    def rows_sha256(self) -> str:
        """Return the sha256 of what `rows` yields: also of the choice of rows."""
        chosen = [source.chosen for source in self.sources]
        if not any(chosen) and not any(source.spec.where for source in self.sources):
            return self.sha256()
        where = [source.spec.where.source if source.spec.where else "" for source in self.sources]
        found = [hashlib.sha256(rows or b"").hexdigest() for rows in chosen]
        return text_sha256(json.dumps([self.sha256(), where, found]))

    def rows(self) -> Iterator[RawRow]:
        """Yield all rows, numbered over all sources. Raises DataError with every error after the last row."""
        faults: list[str] = []
        total = 0
        for index, source in enumerate(self.sources):
            rows = source.rows()
            while True:
                try:
                    raw = next(rows)
                except StopIteration:
                    break
                except DataError as error:
                    faults += error.faults
                    break
                total += 1
                yield self._named(raw, index, total) if self.mixed else raw
        if faults:
            raise DataError(faults)

    def _named(self, raw: RawRow, index: int, number: int) -> RawRow:
        name = f"{short(self.sources[index].title)} {raw.file}".strip()
        return replace(raw, row=number, unit="row", file=name, source=index)

    def remarks(self) -> list[str]:
        """Return how the files were read and what an epoch is; complete once all rows were read."""
        own = [(f"{short(source.title)}: " if self.mixed else "", source.notes) for source in self.sources]
        return [f"{name}{note}" for name, notes in own for note in notes] + self._epoch()

    def _epoch(self) -> list[str]:
        """Return what an epoch is, if it is not simply all rows."""
        parts = [(source, source.used or 0, source.there or 0) for source in self.sources]
        total = sum(used for _, used, _ in parts)
        if not self.mixed and parts[0][1] == parts[0][2]:
            return []
        told = ", ".join(
            f"{used:,} of {there:,} rows of {source.title} ({used / max(total, 1):.1%})"
            for source, used, there in parts
        )
        return [f"an epoch is {counted(total, 'row')}: {told}, chosen with seed {self.seed}; no row is used twice"]

    def counted(self) -> list[tuple[int, int]]:
        """Return (rows to choose from, rows used) of each source; complete once all rows were read."""
        return [(source.there or 0, source.used or 0) for source in self.sources]

    def record(self, counted: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """Return the sources for the training record; `counted` is from when all rows were read."""
        return [
            {
                "path": public(source.spec.path) if is_remote(source.spec.path) else source.spec.path,
                "sha256": source.sha256,
                "origin": source.located.origin,
                "format": source.reading.format,
                "rows": there,
                "used": used,
            }
            for source, (there, used) in zip(self.sources, counted, strict=True)
        ]


def specs_sha256(specs: Sequence[Spec]) -> str:
    """Return the sha256 that the data set of these sources will have, without reading rows. Raises DataError."""
    return _sha256_over([(spec.path, data_sha256(locate(spec.path))) for spec in specs])


def _sha256_over(hashes: Sequence[tuple[str, str]]) -> str:
    if len(hashes) == 1:
        return hashes[0][1]
    return tree_digest({f"{number} {path}": digest for number, (path, digest) in enumerate(hashes)})


def open_dataset(specs: Sequence[Spec], seed: int, max_rows: int | None = None) -> Dataset:
    """Find the sources and their formats, and choose the rows of an epoch.

    A source used only in part is read once more, to count its rows. Raises DataError.
    """
    sources = [_open(spec) for spec in specs]
    if len(sources) > 1 or max_rows is not None or any(spec.share or spec.rows for spec in specs):
        there = [source.count() for source in sources]
        asked = [Asked(source.title, source.spec.share, source.spec.rows) for source in sources]
        for index, (source, number) in enumerate(zip(sources, counts(asked, there, max_rows), strict=True)):
            source.chosen, source.used = choose(source.there or 0, number, seed, index), number
    dataset = Dataset(tuple(sources), seed)
    kinds = {source.reading.format == "text" for source in sources}
    if len(kinds) > 1:
        raise DataError(f"data.sources: some are plain texts, some chats ({dataset.how}): use sources of one kind")
    return dataset


def _open(spec: Spec) -> Source:
    located = locate(spec.path)
    first: list[RawRow] = []
    rows = iter_rows(located, [])
    try:
        first.extend(islice(rows, FIRST_ROWS))
    except DataError:  # raised again, with the other rows' faults
        if not first:
            raise
    readers = (*(spec.columns.readers if spec.columns else ()), *((spec.where,) if spec.where else ()))
    names = _names(first, rows, readers)
    if spec.where is not None and (faults := unknown_names((spec.where,), names, located.title)):
        raise DataError(faults)
    reading = decide(first, located.title, spec.format, spec.columns, spec.transcript, names)
    return Source(spec, located, reading)


def _names(first: Sequence[RawRow], others: Iterator[RawRow], readers: Sequence[Reader]) -> list[str]:
    """Return the columns of the first rows, and those that templates read and only other rows have.

    The other rows are read until they are found: rows may leave out empty cells.
    """
    names = columns_of(first)
    missing = missing_names(readers, names)
    with suppress(DataError):  # raised again, with the other rows' faults
        while missing and (raw := next(others, None)) is not None:
            found = missing & raw.value.keys() if isinstance(raw.value, dict) else frozenset()
            names, missing = [*names, *sorted(found)], missing - found
    return names
