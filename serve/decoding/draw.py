"""Samples one token from a row of logits, with the same distribution as llama.cpp's sampler chain.

The chain is top-k, top-p, min-p, temperature, draw. Only candidates are computed: the tokens that pass top-k, top-p or
min-p, or otherwise those close to the most likely, with a bound on all others. Small candidate sets are computed in
plain Python: unlike numpy's code, the interpreter's is still in the CPU's caches after a decode.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from .row import Floats, Ids, Row

Weights = npt.NDArray[np.float64]
Uniform = Callable[[], float]  # returns a new number in [0, 1) on every call

# up to this many candidates are computed without numpy
FEW = 200
BLOCK = 256
# a larger sum of the floors means more proposals and fewer candidates; for a large row, whose column maxima are known,
# the first sum that leaves few columns is used
FLOORS = (8.0, 64.0)
FEW_COLUMNS = 128
# for top-p, tokens are binned by weight, with this many bins per factor of e; only the bin with the cut is sorted
BINS = 64


@dataclass(frozen=True)
class Shape:
    """The distribution to sample from: temperature is above 0; top_k 0, top_p 1 and min_p 0 mean disabled."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def draw(row: Row, shape: Shape, uniform: Uniform) -> int:
    """Sample a token from a usable row. The same row and random numbers always yield the same token."""
    ids = candidates(row, shape)
    if ids is None:
        return _of_all(row, shape.temperature, uniform)
    if len(ids) > FEW:
        return int(ids[_pick(_weights(row, ids, shape.temperature), uniform())])
    sums = _sums(row, ids, shape.temperature)
    return ids.item(bisect_right(sums, uniform() * sums[-1], hi=len(sums) - 1))


def candidates(row: Row, shape: Shape) -> Ids | None:
    """Return the ids that may be sampled, or None for all. As in llama.cpp, filters use temperature 1."""
    ids: Ids | None = None
    if 0 < shape.top_k < len(row.values):
        ids = row.top(shape.top_k)
    if shape.top_p < 1.0:
        ids = _nucleus(row, shape.top_p) if ids is None else _nucleus_of(row, ids, shape.top_p)
    if shape.min_p > 0.0:
        least = np.float32(row.highest) + np.float32(math.log(shape.min_p))
        return row.reaching(float(least)) if ids is None else ids[row.values[ids] >= least]
    return ids


def _nucleus_of(row: Row, ids: Ids, share: float) -> Ids:
    """Return the shortest prefix of `ids`, sorted by weight, that reaches `share` of their total weight."""
    if len(ids) > FEW:
        sums = _weights(row, ids, 1.0).cumsum()
        return ids[: int(sums.searchsorted(share * sums[-1])) + 1]
    few = _sums(row, ids, 1.0)
    return ids[: bisect_left(few, share * few[-1]) + 1]


def _nucleus(row: Row, share: float) -> Ids:
    """Return the smallest set of most likely tokens that reaches `share` of the total weight, unordered."""
    # all tokens below this together weigh less than 1 - share of the total (float32 rounds the bound up by < 1e-4)
    least = row.highest + math.log((1.0 - share) * row.total / len(row.values)) - 1e-4
    ids = row.reaching(least)
    weights = _weights(row, ids, 1.0)
    bins = ((np.float32(row.highest) - row.values[ids]) * np.float32(BINS)).astype(np.intp)
    sums, wanted = np.bincount(bins, weights).cumsum(), share * row.total
    last = int(sums.searchsorted(wanted))
    (there,) = (bins == last).nonzero()
    there = there[(-row.values[ids[there]]).argsort(kind="stable")]
    before = sums[last - 1] if last else 0.0
    enough = int((before + weights[there].cumsum()).searchsorted(wanted)) + 1
    kept: Ids = np.concatenate(((bins < last).nonzero()[0], there[:enough]))
    return ids[kept]


def _sums(row: Row, ids: Ids, temperature: float) -> list[float]:
    """Return the running sums of exp((x - highest) / temperature)."""
    highest, exp = row.highest, math.exp
    return list(accumulate([exp((value - highest) / temperature) for value in row.values[ids].tolist()]))


def _weights(row: Row, ids: Ids, temperature: float) -> Weights:
    """Return exp((x - highest) / temperature), float64."""
    scaled = (row.values[ids].astype(np.float64) - row.highest) / temperature
    return np.exp(scaled, out=scaled)


def _pick(weights: Weights | Floats, share: float) -> int:
    """Return the index where the running sum passes `share`, in [0, 1), of the total; never one with weight 0."""
    if len(weights) <= 2 * BLOCK:
        return _place(weights.cumsum(dtype=np.float64), share)[0]
    # first choose a block, because running sums are slow: 500 us for 128,256 values
    starts = np.arange(0, len(weights), BLOCK)
    block, share = _place(np.add.reduceat(weights, starts).cumsum(dtype=np.float64), share)
    start = int(starts[block])
    return start + _place(weights[start : start + BLOCK].cumsum(dtype=np.float64), share)[0]


def _place(sums: Weights, share: float) -> tuple[int, float]:
    """Return the index where running sums pass `share` of the last one, and the position in that entry, 0 to 1."""
    at = share * float(sums[-1])
    # if rounding yields the last sum itself, use the last entry with a nonzero weight
    place = int(min(sums.searchsorted(at, side="right"), sums.searchsorted(sums[-1])))
    before = float(sums[place - 1]) if place else 0.0
    return place, (at - before) / (float(sums[place]) - before)


def _of_all(row: Row, temperature: float, uniform: Uniform) -> int:
    """Sample from the whole vocabulary by rejection sampling, which is exact.

    The proposal distribution gives every token the weight `floor`; tokens close to the most likely, which weigh more,
    also get the rest of their weight. A token proposed through its floor is accepted with probability weight / floor,
    at most 1. If the floors sum to F times the most likely token's weight, at most F + 1 proposals are needed on
    average, at one microsecond each.
    """
    count, highest = len(row.values), row.highest
    distance = _distance(row, temperature)
    least = highest - distance * temperature
    near = row.reaching(least)
    if len(near) > FEW and row.crowded(least):
        return _of_dense(row, temperature, uniform)
    floor = math.exp(-distance)
    if len(near) > FEW:
        sums = np.maximum(_weights(row, near, temperature) - floor, 0.0).cumsum().tolist()
    else:
        values = row.values[near].tolist()
        sums = list(accumulate([max(0.0, math.exp((x - highest) / temperature) - floor) for x in values]))
    while True:
        at = uniform() * (sums[-1] + floor * count)
        if at < sums[-1]:
            return near.item(bisect_right(sums, at))
        token = min(int((at - sums[-1]) / floor), count - 1)
        if uniform() * floor < math.exp((row.values.item(token) - highest) / temperature):
            return token


def _distance(row: Row, temperature: float) -> float:
    """Return how far below the highest value, in units of temperature, tokens count as close to the most likely."""
    far, near = (max(0.0, math.log(len(row.values) / floors)) for floors in FLOORS)
    if row.folded and row.columns_reaching(row.highest - far * temperature) > FEW_COLUMNS:
        return near
    return far


def _of_dense(row: Row, temperature: float, uniform: Uniform) -> int:
    """Sample from the whole vocabulary by computing all exponentials."""
    weights = np.subtract(row.values, np.float32(row.highest))
    weights /= np.float32(temperature)
    return _pick(np.exp(weights, out=weights), uniform())
