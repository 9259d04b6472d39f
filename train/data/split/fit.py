"""Rows longer than data.max_length: rejected, dropped or truncated according to data.over_length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from burnish.console import say, warn
from burnish.data.files import DataError

from ...settings import DataSection
from ..cache.rows import Rows
from ..cache.store import Store
from ..contents.digests import Numbers

MOST_NAMED = 3  # most over-long rows named in a message


@dataclass(frozen=True)
class Fitting:
    """The kept rows of a file, by index, and the row numbers of dropped and truncated rows."""

    store: Store
    kept: Numbers
    lengths: Numbers
    dropped: list[int]
    truncated: list[int]
    limit: int

    def rows(self, examples: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Rows:
        """Return the kept rows of the examples for which the array is set."""
        return Rows(self.store, self.kept[examples[self.store.table.owner[self.kept]]], self.limit)

    @property
    def examples(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which examples have a kept row."""
        found = np.zeros(len(self.store), dtype=bool)
        found[self.store.table.owner[self.kept]] = True
        return found


def fit(
    store: Store, data: DataSection, path: str, examples: np.ndarray[tuple[int], np.dtype[np.bool_]] | None = None
) -> Fitting:
    """Return the rows that fit, only those of `examples` if given. Raises DataError if one must fit but does not."""
    table, limit = store.table, data.max_length
    index = np.arange(len(table.owner))
    if examples is not None:
        index = index[examples[table.owner]]
    lengths = table.lengths[index]
    long = index[lengths > limit]
    if len(long) and data.over_length == "error":
        raise DataError(_refused(store, long, len(index), limit, path))
    cut = long[:0]
    if len(long) and data.over_length == "truncate":  # a row whose prompt fills the limit has no response left
        cut = long[table.spans[table.first_span[long], 0] < limit]
    kept = np.sort(np.concatenate([index[lengths <= limit], cut]))
    numbers = store.numbers[table.owner]
    found = Fitting(store, kept, lengths, numbers[np.setdiff1d(long, cut)].tolist(), numbers[cut].tolist(), limit)
    if len(long):
        _say_long(found, len(long), len(index), data, path)
    if not len(kept):
        what = "every row's prompt already fills" if data.over_length == "truncate" else "every row is longer than"
        raise DataError(f"{path}: {what} data.max_length {limit}, so none is left: raise it")
    return found


def _refused(store: Store, long: Numbers, rows: int, limit: int, path: str) -> str:
    table = store.table
    first = [(store[int(table.owner[at])].where, int(table.lengths[at])) for at in long[:MOST_NAMED]]
    named = ", ".join(f"{where}: {length} tokens" for where, length in first)
    others = f" ... the longest has {table.lengths[long].max()}" if len(long) > MOST_NAMED else ""
    return (
        f"{path}: {len(long)} of {rows} rows are longer than data.max_length {limit} ({named}{others}): raise"
        " it, or set data.over_length to drop or truncate"
    )


def _say_long(found: Fitting, long: int, rows: int, data: DataSection, path: str) -> None:
    """Report rows that are too long; with a warning if most are dropped, which is rarely intended."""
    dropped = len(found.dropped)
    (warn if dropped * 2 > rows else say)(
        f"data: {path}: {long} of {rows} rows are longer than data.max_length {data.max_length}: {dropped}"
        f" dropped, {long - dropped} truncated (data.over_length {data.over_length})"
    )
