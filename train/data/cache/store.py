"""A file's prepared rows on disk as sequences: examples, and the training rows made from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from burnish.data.formats import Example
from burnish.files import read_json

from ..contents.digests import Contents, Keys, Numbers, last_response
from .columns import ColumnReader
from .encoded import decoded

META = "meta.json"
UNITS = ("line", "row")


class Store(Sequence[Example]):
    """The examples of one file, in order. `meta` contains the findings from preparing them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.meta: dict[str, Any] = read_json(directory / META)
        self._columns = ColumnReader(directory)
        names = ("line", "row", "unit", "file", "text_end")
        self._line, self._row, self._unit, self._file, self._text_end = map(self._columns.whole, names)

    def check(self) -> None:
        """Raise FileError if an array is damaged."""
        self._columns.check(self.meta["sums"])

    def __len__(self) -> int:
        return len(self._line)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self._text_end[index - 1]) if index else 0
        place = {
            "line": int(self._line[index]),
            "row": int(self._row[index]),
            "unit": UNITS[self._unit[index]],
            "file": self.meta["files"][self._file[index]],
        }
        return decoded(self._columns.part("text", start, int(self._text_end[index])).tobytes(), place)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def numbers(self) -> Numbers:
        """Each example's line, or its number where rows share lines."""
        return np.where(self._unit == UNITS.index("line"), self._line, self._row)

    @cached_property
    def keys(self) -> Keys:
        flat = self._columns.whole("key").reshape(-1, 2)
        return Keys(flat, self._columns.whole("key_end"))

    def contents(self) -> Contents:
        """Return the digests that compare the examples."""
        prompts, responses = self._columns.whole("prompt"), self._columns.whole("response")
        return Contents(self.numbers, self.keys, prompts, responses, lambda at: last_response(self[at]))

    @cached_property
    def table(self) -> RowTable:
        """The rows made from the examples."""
        row_end, id_end, span_end = map(self._columns.whole, ("row_end", "id_end", "span_end"))
        spans, turns, last = self._columns.whole("span").reshape(-1, 2), *map(self._columns.whole, ("turn", "last"))
        owner = np.repeat(np.arange(len(self)), np.diff(row_end, prepend=0))
        return RowTable(owner, id_end, span_end, spans, turns, last)

    def ids(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Return token ids by position."""
        return self._columns.part("ids", start, end)


@dataclass(frozen=True)
class RowTable:
    """The rows [m]: their example's index, the ends of their ids and spans; and the spans [k]: start and end, turn
    (-1 in a text) and last id."""

    owner: Numbers
    id_end: Numbers
    span_end: Numbers
    spans: npt.NDArray[np.int32]
    turns: npt.NDArray[np.int32]
    last: npt.NDArray[np.int32]

    @cached_property
    def lengths(self) -> Numbers:
        """Each row's number of ids."""
        return np.diff(self.id_end, prepend=0)

    @cached_property
    def first_span(self) -> Numbers:
        """The position of each row's first span."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.span_end])[: len(self.span_end)]

    def spans_of(self, index: Numbers) -> Numbers:
        """Return the positions of the spans of the rows at an index."""
        counts = self.span_end[index] - self.first_span[index]
        return np.arange(counts.sum()) + np.repeat(self.span_end[index] - np.cumsum(counts), counts)
