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
# where more columns than this share have a value that is wanted, about one value in 16 is: 1 - (1 - 7/8) ** (1 / 32)
CROWDED = 7 / 8
LOWEST = float(np.finfo(np.float32).min)


class Row:
    """Logits, float32 [n]; they must not change while this is used.

    After a decode nothing of this is in the CPU's caches, numpy's own code included: every call costs some 10 us, a
    pass over 49,152 values 5 to 15. So there are few calls, and the passes are those that numpy vectorises.
    """

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.likeliest = int(values.argmax())  # the first that is NaN, where one is
        self.highest = values.item(self.likeliest)

    @property
    def usable(self) -> bool:
        """Whether something can be drawn: `highest` is NaN where one value is, and -inf where all are."""
        return math.isfinite(self.highest)

    @cached_property
    def peaks(self) -> Floats:
        """The greatest value of every column [i], [i + n / LANES], ...; fewer than LANES values are in none."""
        lanes = LANES if len(self.values) >= LEAST_DIVIDED else 1
        columns = len(self.values) // lanes
        greatest: Floats = np.maximum.reduce(self.values[: lanes * columns].reshape(lanes, columns), axis=0)
        return greatest

    def reaching(self, least: float) -> Ids:
        """Return the ids, ascending, of the values that are at least `least` and not -inf."""
        ids: Ids = (self.values >= np.float32(max(least, LOWEST))).nonzero()[0]
        return ids

    def crowded(self, least: float) -> bool:
        """Whether so many values are at least `least` that to look at all of them is faster than to gather them."""
        return int(np.count_nonzero(self.peaks >= np.float32(least))) > CROWDED * len(self.peaks)

    def top(self, count: int) -> Ids:
        """Return the ids of the `count` greatest values, the greatest first; of equal ones the lower id.

        There are fewer where others are -inf.
        """
        if count < 1:
            return np.empty(0, np.intp)
        ids = self.reaching(self._bound(count))
        order = (-self.values[ids]).argsort(kind="stable")
        return ids[order[:count]]

    def _bound(self, count: int) -> float:
        """Return a value that at least `count` others reach: as many columns do, so there are few more than that."""
        if count == 1:
            return float(self.highest)
        among = self.peaks if count <= len(self.peaks) // 2 else self.values
        if count >= len(among):
            return LOWEST
        at = len(among) - count
        among = among.copy()
        among.partition(at)
        return float(among[at])

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
        return [value - log_total for value in self.values[ids].tolist()]
