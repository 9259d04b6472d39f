"""One row of logits: finds its highest values without sorting the vocabulary or computing exponentials."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]

# a row is folded into columns of this many values, each represented by its maximum
LANES = 32
# shorter rows are not folded: that would save nothing
MIN_FOLDED = 4096
# if more than this share of the columns reach a bound, about one value in 16 does: 1 - (1 - 7/8) ** (1 / 32)
CROWDED = 7 / 8
# minimum number of values for which reading individual columns is worth the pass that finds them
LARGE = 65_536
# if more than one column in this many reaches a bound, a pass over the whole row is faster than reading the columns
SPARSE = 4
LOWEST = float(np.finfo(np.float32).min)


class Row:
    """Logits, float32 [n], which must not change while the Row is in use.

    After a decode, the CPU's caches hold neither the logits nor numpy's code: every call costs about 10 us, a pass over
    49,152 values 5 to 15 us. So calls are few, and numpy vectorizes every pass.
    """

    def __init__(self, values: Floats, greedy: bool = False) -> None:
        """Find the highest value in one pass over the row.

        For a large row, that pass computes `peaks`, so that later steps read only relevant columns; `greedy`: there are
        no later steps.
        """
        self.values = values
        self.folded = len(values) >= LARGE and not greedy
        if self.folded:
            rest = values[LANES * len(self.peaks) :]
            self.highest = float(np.maximum(self.peaks.max(), rest.max(initial=-np.inf)))  # NaN if there is one
        else:
            self.highest = values.item(self.likeliest)

    @cached_property
    def likeliest(self) -> int:
        """The id of the highest value, or of the first NaN, if any."""
        return int(self.values.argmax())

    @property
    def usable(self) -> bool:
        """Whether a token can be sampled: `highest` is NaN if any value is, and -inf if all are."""
        return math.isfinite(self.highest)

    @cached_property
    def peaks(self) -> Floats:
        """The maximum of each column [i], [i + n / LANES], ...; up to LANES - 1 values at the end are in no column."""
        lanes = LANES if len(self.values) >= MIN_FOLDED else 1
        columns = len(self.values) // lanes
        greatest: Floats = np.maximum.reduce(self.values[: lanes * columns].reshape(lanes, columns), axis=0)
        return greatest

    def reaching(self, least: float) -> Ids:
        """Return the ids of values of at least `least`, except -inf, in ascending order."""
        bound = np.float32(max(least, LOWEST))
        if self.folded:
            columns = (self.peaks >= bound).nonzero()[0]
            if len(columns) <= len(self.peaks) // SPARSE:
                return self._within(columns, bound)
        ids: Ids = (self.values >= bound).nonzero()[0]
        return ids

    def _within(self, columns: Ids, bound: np.float32) -> Ids:
        """Return the ids of values of at least `bound` in these columns or outside all columns, in ascending order."""
        width = len(self.peaks)
        among = self.values[: LANES * width].reshape(LANES, width)[:, columns]
        (found,) = (among.ravel() >= bound).nonzero()
        lanes, places = np.divmod(found, max(1, len(columns)))
        rest = (self.values[LANES * width :] >= bound).nonzero()[0]
        return np.concatenate((lanes * width + columns[places], LANES * width + rest))

    def columns_reaching(self, least: float) -> int:
        """Return how many columns contain a value of at least `least`."""
        return int(np.count_nonzero(self.peaks >= np.float32(least)))

    def crowded(self, least: float) -> bool:
        """Whether so many values reach `least` that using the whole row is faster than gathering them."""
        return self.columns_reaching(least) > CROWDED * len(self.peaks)

    def top(self, count: int) -> Ids:
        """Return the ids of the `count` highest values, highest first; ties are ordered by id.

        Returns fewer if the others are -inf.
        """
        if count < 1:
            return np.empty(0, np.intp)
        ids = self.reaching(self._bound(count))
        order = (-self.values[ids]).argsort(kind="stable")
        return ids[order[:count]]

    def _bound(self, count: int) -> float:
        """Return a bound reached by at least `count` values and few more: `count` columns contain such a value."""
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
        """exp(x - highest), float32 [n], for sums over all tokens."""
        shifted: Floats = self.values - np.float32(self.highest)
        np.exp(shifted, out=shifted)
        return shifted

    @cached_property
    def total(self) -> float:
        """The float64 sum of `exponentials`, within 1e-6 of an all-float64 computation."""
        return float(self.exponentials.sum(dtype=np.float64))

    def logprobs(self, ids: Ids) -> list[float]:
        """Return log-softmax in nats: log p(i) = x_i - log sum_j exp(x_j)."""
        log_total = self.highest + math.log(self.total)
        return [value - log_total for value in self.values[ids].tolist()]
