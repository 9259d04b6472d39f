"""Training rows and examples in a store, selected by index and read lazily."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from burnish.data.formats import Example

from ..contents.digests import Numbers
from ..mask import Row
from .store import Store

BLOCK_ROWS = 4096  # rows that are summed at a time
SPARSE = 4  # rows in a block that are further apart than this many times their size are read one by one


class Examples(Sequence[Example]):
    """Examples in a store, by index."""

    def __init__(self, store: Store, places: Numbers) -> None:
        self.store, self.places = store, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return Examples(self.store, self.places[index])
        return self.store[int(self.places[index])]

    def __iter__(self) -> Iterator[Example]:
        return (self.store[int(at)] for at in self.places)


class Rows(Sequence[Row]):
    """Rows in a store, by index, truncated to `limit` ids."""

    def __init__(self, store: Store, places: Numbers, limit: int) -> None:
        self.store, self.places, self.limit = store, places, limit

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self.store, self.places[index], self.limit)
        return self._row(int(self.places[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self._row(int(at)) for at in self.places)

    @property
    def examples(self) -> Examples:
        """The examples of the rows, each once."""
        return Examples(self.store, np.unique(self.store.table.owner[self.places]))

    @property
    def lengths(self) -> Numbers:
        """The rows' lengths in tokens."""
        found: Numbers = np.minimum(self.store.table.lengths[self.places], self.limit)
        return found

    @property
    def terminators(self) -> list[int]:
        """The distinct ids that end trained spans, in order, ignoring truncated spans."""
        spans = self.store.table.spans_of(self.places)
        last = self.store.table.last[spans[self.store.table.spans[spans, 1] <= self.limit]]
        ids, first = np.unique(last, return_index=True)
        found: list[int] = ids[np.argsort(first)].tolist()
        return found

    @property
    def any_whole(self) -> bool:
        """Whether any row has a span that is not truncated."""
        table = self.store.table
        return bool((table.spans[table.first_span[self.places], 1] <= self.limit).any())

    def trained_tokens(self, everything: bool) -> int:
        """Return the number of tokens that are trained."""
        if everything:
            return int(self.lengths.sum())
        table = self.store.table
        spans = np.minimum(table.spans[table.spans_of(self.places)], self.limit)
        return int((spans[:, 1] - spans[:, 0]).sum())

    def parted(self) -> tuple[int, int]:
        """Return the number of examples split into several rows, and the number of these rows."""
        counts = np.bincount(self.store.table.owner[self.places])
        return int((counts > 1).sum()), int(counts[counts > 1].sum())

    def sha256(self) -> str:
        """Return one sha256 over all rows' ids and spans."""
        digest = hashlib.sha256()
        for at in range(0, len(self), BLOCK_ROWS):
            places = self.places[at : at + BLOCK_ROWS]
            lengths, end = self.store.table.lengths[places], self.store.table.id_end[places]
            near = end[-1] - end[0] < SPARSE * lengths.sum() and not (lengths > self.limit).any()
            for flat in [self._flat(places)] if near else map(self._flat_one, places):
                digest.update(flat.astype("<i8").tobytes())
        return digest.hexdigest()

    def _flat_one(self, at: int) -> npt.NDArray[np.int64]:
        """Return a row as one array: its length, ids and spans."""
        ids, spans, _, _ = self._arrays(int(at))
        return np.concatenate([[len(ids)], ids, [place for span in spans for place in span]])

    def _flat(self, places: Numbers) -> npt.NDArray[np.int64]:
        """Return whole rows that are near one another as one array, each as in `_flat_one`."""
        table = self.store.table
        lengths, id_end = table.lengths[places], table.id_end[places]
        counts = 2 * (table.span_end[places] - table.first_span[places])
        starts = np.cumsum(1 + lengths + counts) - (1 + lengths + counts)
        flat = np.empty(starts[-1] + 1 + lengths[-1] + counts[-1], dtype=np.int64)
        flat[starts] = lengths
        first = int(id_end[0] - lengths[0])
        ids = self.store.ids(first, int(id_end[-1]))
        flat[_ranges(starts + 1, lengths)] = ids[_ranges(id_end - lengths - first, lengths)]
        flat[_ranges(starts + 1 + lengths, counts)] = table.spans[table.spans_of(places)].ravel()
        return flat

    def _row(self, at: int) -> Row:
        ids, spans, turns, cut = self._arrays(at)
        return Row(self.store[int(self.store.table.owner[at])], ids.tolist(), spans, turns, cut)

    def _arrays(self, at: int) -> tuple[npt.NDArray[np.int32], tuple[tuple[int, int], ...], tuple[int, ...], bool]:
        table = self.store.table
        end, length = int(table.id_end[at]), int(table.lengths[at])
        kept = min(length, self.limit)
        first, last = int(table.first_span[at]), int(table.span_end[at])
        spans = [(start, stop) for start, stop in table.spans[first:last].tolist() if start < kept]
        cut = bool(spans[-1][1] > kept)
        spans[-1] = (spans[-1][0], min(spans[-1][1], kept))
        turns = tuple(turn for turn in table.turns[first : first + len(spans)].tolist() if turn >= 0)
        return self.store.ids(end - length, end - length + kept), tuple(spans), turns, cut


def _ranges(starts: Numbers, lengths: Numbers) -> Numbers:
    """Return the numbers of all ranges [start, start + length), joined."""
    ends = np.cumsum(lengths)
    found: Numbers = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
    return found
