"""Convert the rows of a dataset, each source in its own format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..faults import DataError
from ..formats import Conversion, Converter, Example
from ..reading.row import RawRow

MIXED = "mixed"  # the format of sources whose formats differ


@dataclass
class DatasetConverter:
    """Converts rows by their source. Parts of the rows can be converted in other processes and merged in order."""

    parts: list[Converter]
    tested: list[frozenset[str]]  # the columns that each source's data.where reads

    @property
    def faults(self) -> list[str]:
        """The errors of all sources' rows."""
        return [fault for part in self.parts for fault in part.faults]

    @property
    def converted(self) -> int:
        """The number of examples."""
        return sum(part.converted for part in self.parts)

    @property
    def stopped(self) -> bool:
        """Whether a template takes too long, so that no other row is to be read."""
        return any(part.stopped for part in self.parts)

    def add(self, raw: RawRow) -> Example | None:
        """Return the row as an example; None if it has errors, or is left out."""
        return self.parts[raw.source].add(raw)

    def empty(self) -> DatasetConverter:
        """Return a converter with the same settings, for another part of the rows."""
        return DatasetConverter([part.empty() for part in self.parts], self.tested)

    def merge(self, other: DatasetConverter) -> None:
        """Add the findings in the next rows."""
        for part, more in zip(self.parts, other.parts, strict=True):
            part.merge(more)

    def conversion(self) -> Conversion:
        """Return the findings, without the examples. Raises DataError with every error."""
        faults, more = list[str](), 0
        found: list[Conversion] = []
        for part in self.parts:
            try:
                found.append(part.conversion())
            except DataError as error:
                faults, more = [*faults, *error.faults], more + error.more
        if faults:
            raise DataError(faults, more)
        unused = Counter[str]()
        for one, tested in zip(found, self.tested, strict=True):
            unused.update({name: count for name, count in one.unused_columns.items() if name not in tested})
        notes = self._named([one.notes for one in found])
        return Conversion(
            common([one.format for one in found]), (), unused, notes, self._named([o.remarks for o in found])
        )

    def _named(self, notes: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Return the notes; those of several sources begin with the source's name."""
        names = [f"{short(part.path)}: " if len(self.parts) > 1 else "" for part in self.parts]
        return tuple(f"{name}{note}" for name, own in zip(names, notes, strict=True) for note in own)


def common(formats: Sequence[str]) -> str:
    """Return the format of all sources, or that they differ."""
    return formats[0] if len(set(formats)) == 1 else MIXED


def short(title: str) -> str:
    """Return the last part of a path or URL."""
    return title.rstrip("/").rsplit("/", 1)[-1]
