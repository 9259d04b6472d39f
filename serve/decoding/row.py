"""One row of logits: its greatest values, found without sorting the vocabulary or taking its exponentials."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

# a row is read as so many lanes; the greatest value of a column stands for all of its lanes
LANES = 32
# shorter rows are their own columns: there is nothing to save
LEAST_DIVIDED = 4096
# where more than one column in so many has a wanted value, comparing the whole row is faster than gathering columns
SPARSE = 16
# where more columns than this share have one, about one value in 16 is (32 lanes: 1 - (1 - 7/8) ** (1 / 32))
CROWDED = 7 / 8
LOWEST = float(np.finfo(np.float32).min)


class Row:
    """Logits, float32 [n]; they must not change while this is used.

    One pass takes the greatest of every column, values [i], [i + n / LANES], ...; what follows looks only into columns
    that can hold a wanted value (128,256 values: 11 us for the pass, 1,000 us for numpy's argpartition of all).
    """

    def __init__(self, values: Floats) -> None:
        self.values = values
        lanes = LANES if len(values) >= LEAST_DIVIDED else 1
        self._columns = len(values) // lanes
        self._body = values[: lanes * self._columns].reshape(lanes, self._columns)
        self._rest = values[lanes * self._columns :]  # fewer than LANES
        self._peaks: Floats = np.maximum.reduce(self._body, axis=0)
        highest = self._peaks.max()
        self.highest = float(np.maximum(highest, self._rest.max()) if len(self._rest) else highest)

    @property
    def usable(self) -> bool:
        """Whether something can be drawn: `highest` is NaN where one value is, and -inf where all are."""
        return math.isfinite(self.highest)

    def reaching(self, least: float) -> Ids:
        """Return the ids, ascending, of the values that are at least `least` and not -inf."""
        bound = np.float32(max(least, LOWEST))
        columns = np.flatnonzero(self._peaks >= bound)
        if len(columns) * SPARSE > self._columns:
            return np.flatnonzero(self.values >= bound)
        lanes, found = np.nonzero(self._body.take(columns, axis=1) >= bound)
        ids = lanes * self._columns + columns[found]
        if len(self._rest):
            ids = np.concatenate((ids, np.flatnonzero(self._rest >= bound) + self._body.size))
        return ids

    def crowded(self, least: float) -> bool:
        """Whether so many values are at least `least` that to look at all of them is faster than to gather them."""
        return int(np.count_nonzero(self._peaks >= np.float32(least))) > CROWDED * self._columns

    def top(self, count: int) -> Ids:
        """Return the ids of the `count` greatest values, the greatest first; of equal ones the lower id.

        There are fewer where others are -inf.
        """
        if count < 1:
            return np.empty(0, np.intp)
        ids = self.reaching(self._bound(count))
        order = np.argsort(-self.values[ids], kind="stable")
        return ids[order[:count]]

    def _bound(self, count: int) -> float:
        """Return a value that at least `count` others reach: as many columns do, so there are few more than that."""
        among = self._peaks if count <= self._columns // 2 else self.values
        if count >= len(among):
            return LOWEST
        at = len(among) - count
        return float(np.partition(among, at)[at])

    @cached_property
    def exponentials(self) -> Floats:
        """exp(x - highest), float32 [n]: for what needs the sum over all tokens."""
        shifted: Floats = self.values - np.float32(self.highest)
        np.exp(shifted, out=shifted)
        return shifted

    @cached_property
    def total(self) -> float:
        """The sum of `exponentials`, in float64; within 1e-6 of all in float64."""
        return float(self.exponentials.sum(dtype=np.float64))

    def logprobs(self, ids: Ids) -> list[float]:
        """Return log-softmax in nats: log p(i) = x_i - log sum_j exp(x_j)."""
        log_total = self.highest + math.log(self.total)
        return [float(value) - log_total for value in self.values[ids]]
