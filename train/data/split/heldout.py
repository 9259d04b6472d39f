"""Choose the held-out rows by content, so that the exam contains only untrained content."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from burnish.console import say, warn
from burnish.data.files import DataError

from ...settings import DataSection
from ..cache.store import Store
from ..contents.digests import Keys, Numbers, numbered, ordered

MIN_ROWS = 2
MAX_HELDOUT_UNASKED = 64
MAX_SHOWN = 3

Chosen = npt.NDArray[np.bool_]


def held_out(keys: Keys, share: float, seed: int, most: int | None = None, said: list[str] | None = None) -> Chosen:
    """Return which examples [n] are held out.

    `share` of the examples is held out, at least one and at most `most`. A share of 0 holds out 5 % (at most 64),
    because the exam needs untrained rows. Examples that share content (`Keys.groups`) stay together. Groups are chosen,
    if they fit, in an order that depends only on the seed and their content.
    """
    rows = len(keys)
    groups, names = keys.groups()
    if len(names) < MIN_ROWS:
        found = f"{rows} rows, all with the same content" if rows > 1 else f"{rows} row"
        raise DataError(
            f"the data has {found}: at least {MIN_ROWS} {'different ones ' if rows > 1 else ''}are needed,"
            " one to train and one to hold out"
        )
    count = round(rows * share) if share else min(MAX_HELDOUT_UNASKED, rows // 20)
    if most is not None and count > most:
        text = f"data: {most} of {rows} rows are held out, not {count}: data.eval_rows limits each evaluation"
        said.append(text) if said is not None else say(text)
        count = most
    chosen = _choose(np.bincount(groups), ordered(names, seed), min(max(1, count), rows - 1))
    return np.isin(groups, chosen)


def bounded(keys: Keys, most: int, seed: int, path: str) -> Chosen:
    """Return which of an eval file's rows [n] are evaluated: at most `most`, chosen by seed and content."""
    chosen = np.ones(len(keys), dtype=bool)
    if len(keys) <= most:
        return chosen
    say(f"data: {most} of the {len(keys)} rows of {path} are evaluated: data.eval_rows limits each evaluation")
    groups, names = keys.groups()
    rank = np.empty(len(names), dtype=np.int64)
    rank[ordered(names, seed)] = np.arange(len(names))
    chosen[np.argsort(rank[groups], kind="stable")[most:]] = False
    return chosen


def _choose(sizes: Numbers, order: Numbers, wanted: int) -> list[int]:
    """Return the groups to hold out: at most `wanted` rows in total, or the smallest group if all are larger."""
    chosen, left = [], wanted
    for group in order:
        if sizes[group] <= left:
            chosen.append(int(group))
            left -= int(sizes[group])
        if not left:
            break
    return chosen or [int(order[np.argmin(sizes[order])])]


def without_overlap(train: Store, heldout: Store, data: DataSection) -> tuple[Chosen, int]:
    """Apply `data.eval_overlap`; return which examples are trained, and the number of held-out ones among them.

    Raises DataError, with the first shared rows on both sides, if overlap is an error, or if nothing would be left to
    train on.
    """
    flat = np.concatenate([train.keys.whole, heldout.keys.whole])
    ids, first = numbered(flat)
    trained, held = ids[: len(train)], ids[len(train) :]
    shared = np.flatnonzero(first[held] < len(train))  # the first row with this content is in data.path
    everything = np.ones(len(train), dtype=bool)
    if not len(shared):
        return everything, 0
    places = "; ".join(
        f"{heldout[int(at)].where} is {train[int(first[held[at]])].where} there" for at in shared[:MAX_SHOWN]
    )
    more = f"; {len(shared) - MAX_SHOWN} more" if len(shared) > MAX_SHOWN else ""
    text = (
        f"data.eval_path {data.eval_path}: {len(shared)} of its {len(heldout)} rows are also in data.path {data.path}"
        f" ({places}{more})"
    )
    if data.eval_overlap == "error":
        raise DataError(
            f"{text}: trained rows can't be used for evaluation; remove them from one file, or set data.eval_overlap"
            " to drop (don't train them) or allow"
        )
    if data.eval_overlap == "allow":
        warn(f"{text} and are trained (data.eval_overlap allow): the eval loss and the exam will look too good")
        return everything, len(shared)
    remaining = ~np.isin(trained, held)
    if not remaining.any():
        raise DataError(f"{text}: with data.eval_overlap drop, no row would be left to train on")
    dropped = len(train) - int(remaining.sum())
    say(f"data: {text}: {dropped} training rows are dropped (data.eval_overlap drop)")
    return remaining, len(shared)
