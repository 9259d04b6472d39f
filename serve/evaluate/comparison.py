"""Compare two models' scores on the same rows: a paired bootstrap, and wins, ties and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
MAX_NUMBERS = 1 << 22  # of one block of resampled rows
Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Mean scores with their 95% intervals, the mean difference (tuned minus base), and wins, ties and losses.

    An interval is None for a single row.
    """

    tuned: float
    tuned_ci: Interval | None
    base: float
    base_ci: Interval | None
    difference: float
    difference_ci: Interval | None
    wins: int
    ties: int
    losses: int


def compare(base: Sequence[float], tuned: Sequence[float]) -> Comparison:
    """Compare scores of the same rows in the same order. Raises ValueError if there are none."""
    if not base or len(base) != len(tuned):
        raise ValueError(f"expected the same rows of both models, at least one, got {len(base)} and {len(tuned)}")
    one, other = np.asarray(base, np.float64), np.asarray(tuned, np.float64)
    difference = other - one
    intervals = bootstrap(np.stack([other, one, difference]))
    return Comparison(
        float(other.mean()), intervals[0], float(one.mean()), intervals[1], float(difference.mean()), intervals[2],
        int((difference > 0).sum()), int((difference == 0).sum()), int((difference < 0).sum()),
    )  # fmt: skip


def bootstrap(values: Floats) -> list[Interval | None]:
    """Return the percentile interval of each mean in `values`, [k, rows], over resampled rows.

    Each resample draws the same rows for all k, so that a difference is paired (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 1993, chapter 13). The seed is fixed: the same scores give the same interval.
    """
    rows = values.shape[1]
    if rows < 2:
        return [None] * len(values)
    draw = np.random.default_rng(SEED)
    size = max(1, MAX_NUMBERS // rows)
    parts = []
    for start in range(0, RESAMPLES, size):
        chosen = draw.integers(0, rows, (min(size, RESAMPLES - start), rows))
        parts.append(values[:, chosen].mean(axis=2))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(parts, axis=1), (tail, 1 - tail), axis=1)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
