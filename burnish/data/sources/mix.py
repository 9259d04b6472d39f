"""Choose the rows of each source in an epoch: exact numbers, selected with a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..faults import DataError

TOLERANCE = Fraction(1, 1000)  # shares such as 0.333 three times


@dataclass(frozen=True)
class Asked:
    """The requested amount of one source: a share of all rows, a number of rows, or neither (all rows)."""

    title: str
    share: float | None = None
    rows: int | None = None


def counts(asked: Sequence[Asked], there: Sequence[int], max_rows: int | None = None) -> list[int]:
    """Return the number of rows to use from each source, given the available numbers.

    If every source has a share, the mix is as large as the scarcest source allows; otherwise the sources without one
    fix its size. No row is used twice. Raises DataError if the shares or numbers can't be met.
    """
    shares = [None if one.share is None else Fraction(one.share).limit_denominator(10**6) for one in asked]
    total = sum((share for share in shares if share is not None), Fraction(0))
    fixed = [
        None if one.share is not None else there[n] if one.rows is None else one.rows for n, one in enumerate(asked)
    ]
    _check_there([number or 0 for number in fixed], asked, there)
    if all(share is not None for share in shares):
        if abs(total - 1) > TOLERANCE:
            raise DataError(f"data.sources: expected shares that add up to 1, got {float(total):g}")
        parts = [share / total for share in shares if share is not None]
        size = min(math.floor(number / share) for number, share in zip(there, parts, strict=True))
        return _divided(min(size, max_rows or size), parts)
    if total >= 1:
        raise DataError(f"data.sources: the shares add up to {float(total):g}: no rows are left for the other sources")
    if max_rows is not None and len(asked) > 1:
        raise DataError("data.max_rows: limits one source, or sources that all have a share; set the sources' rows")
    size = round(sum(number for number in fixed if number is not None) / (1 - total))
    found = [round(share * size) if share is not None else fixed[n] or 0 for n, share in enumerate(shares)]
    _check_there(found, asked, there)
    return [min(found[0], max_rows)] if max_rows is not None else found


def _check_there(wanted: Sequence[int], asked: Sequence[Asked], there: Sequence[int]) -> None:
    faults = [
        f"data.sources: {one.title}: "
        + (f"rows is {one.rows:,}" if one.share is None else f"share {one.share:g} is {number:,} rows")
        + f", but it has {has:,}: request fewer rows, since no row is used twice"
        for one, number, has in zip(asked, wanted, there, strict=True)
        if number > has
    ]
    if faults:
        raise DataError(faults)


def _divided(size: int, shares: Sequence[Fraction]) -> list[int]:
    """Divide `size` rows by the shares; leftover rows go to the largest remainders."""
    exact = [share * size for share in shares]
    whole = [math.floor(part) for part in exact]
    by_remainder = sorted(range(len(shares)), key=lambda n: (whole[n] - exact[n], n))
    for n in by_remainder[: size - sum(whole)]:
        whole[n] += 1
    return whole


def choose(there: int, wanted: int, seed: int, source: int) -> bytearray | None:
    """Return one byte per row of a source, 1 if it is used; None if all are used."""
    if wanted >= there:
        return None
    chosen = bytearray(there)
    for n in random.Random(f"{seed} {source}").sample(range(there), wanted):
        chosen[n] = 1
    return chosen
