"""Confidence intervals for exam figures computed over few rows.

Every exam figure is a ratio of sums over positions: a mean (sum of values / number of positions), or the lost share
of the gain (sum of losses / sum of gains). Tokens in a row are not independent, so rows are the sampling unit. The
variance is the delete-one-row jackknife, (G - 1)/G · Σ (θ(-g) - θ)² over G rows (Miller, "The jackknife: a
review", Biometrika 61, 1974; with clusters also called CR3: Cameron and Miller, "A practitioner's guide to
cluster-robust inference", J. Human Resources 50, 2015, section VI.B). It is deterministic, valid for rows of unequal
length, and conservative for few rows. The interval is θ ± t · √variance, with Student's t at G - 1
degrees of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure over `rows` rows with its 95% interval; None for a single row or a zero denominator."""

    value: float
    interval: Interval | None
    rows: int


def estimate(
    top: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    bottom: npt.NDArray[Any] | None = None,
    least: float = -math.inf,
    most: float = math.inf,
) -> Estimate | None:
    """Return sum(top) / sum(bottom) with its interval, clustered by row; None without positions.

    All arrays are [n], one entry per position; `rows` contains each position's row. Without `bottom` the figure is the
    mean of `top`. The interval is clipped to [least, most], the figure's possible range.
    """
    if not len(top):
        return None
    _, row = np.unique(rows, return_inverse=True)
    ones = np.ones(len(top)) if bottom is None else np.asarray(bottom, dtype=np.float64)
    tops, bottoms = np.bincount(row, np.asarray(top, dtype=np.float64)), np.bincount(row, ones)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(tops.sum() / bottoms.sum())
        without = (tops.sum() - tops) / (bottoms.sum() - bottoms)  # the figure with one row left out at a time
        error = math.sqrt((len(tops) - 1) / len(tops) * float(((without - value) ** 2).sum())) if len(tops) > 1 else 0.0
    half = quantile(len(tops) - 1) * error if len(tops) > 1 else math.nan
    if not math.isfinite(half):
        return Estimate(value, None, len(tops))
    return Estimate(value, (max(least, value - half), min(most, value + half)), len(tops))


def quantile(freedom: int) -> float:
    """Return the two-sided Student's t quantile for CONFIDENCE at `freedom` >= 1 degrees of freedom.

    Closed forms for 1 and 2, else the 1/freedom expansion in Abramowitz and Stegun, 26.7.5 (0.1% low at 3 degrees).
    """
    p = (1 + CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms)))


def rows_needed(value: float, interval: Interval, rows: int, limit: float) -> float:
    """Estimate how many rows would make the interval exclude `limit` if the figure stays the same.

    The interval's half-width falls as 1/√rows. Infinite if the figure equals the limit.
    """
    half = max(interval[1] - value, value - interval[0])
    error = half / quantile(rows - 1)
    if value == limit:
        return math.inf
    return max(rows + 1, math.ceil(rows * (Z * error / abs(limit - value)) ** 2))
