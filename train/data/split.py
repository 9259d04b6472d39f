"""Choose the held-out rows by content, so that the exam contains only untrained content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from burnish.console import say, warn
from burnish.data.files import DataError
from burnish.data.formats import Example

from ..settings import DataSection
from . import dedupe
from .mask import Row

MIN_ROWS = 2
MAX_HELDOUT_UNASKED = 64
MAX_SHOWN = 3


def split(rows: Sequence[Row], share: float, seed: int, most: int | None = None) -> tuple[list[Row], list[Row]]:
    """Return the training rows and the held-out rows, both in file order.

    `share` of the examples is held out, at least one and at most `most`. A share of 0 holds out 5 % (at most 64),
    because the exam needs untrained rows. Rows from one example and rows that share content (`dedupe.groups`) stay
    together. Groups are chosen, if they fit, in an order that depends only on the seed and their content.
    """
    examples = list({id(row.example): row.example for row in rows}.values())
    keys = dedupe.groups(examples)
    sizes = Counter(keys)
    if len(sizes) < MIN_ROWS:
        found = f"{len(examples)} rows, all with the same content" if len(examples) > 1 else f"{len(examples)} row"
        raise DataError(
            f"the data has {found}: at least {MIN_ROWS} {'different ones ' if len(examples) > 1 else ''}are needed,"
            " one to train and one to hold out"
        )
    count = round(len(examples) * share) if share else min(MAX_HELDOUT_UNASKED, len(examples) // 20)
    if most is not None and count > most:
        say(f"data: {most} of {len(examples)} rows are held out, not {count}: data.eval_rows limits each evaluation")
        count = most
    chosen = _choose(sizes, min(max(1, count), len(examples) - 1), seed)
    held = {id(example) for example, key in zip(examples, keys, strict=True) if key in chosen}
    return [r for r in rows if id(r.example) not in held], [r for r in rows if id(r.example) in held]


def bounded(heldout: Sequence[Row], most: int, seed: int, path: str) -> list[Row]:
    """Return at most `most` eval-file rows, chosen by seed and content, in file order."""
    if len(heldout) <= most:
        return list(heldout)
    say(f"data: {most} of the {len(heldout)} rows of {path} are evaluated: data.eval_rows limits each evaluation")
    keys = dedupe.groups([row.example for row in heldout])
    rank = {key: place for place, key in enumerate(dedupe.ordered(Counter(keys), seed))}
    order = sorted(range(len(heldout)), key=lambda i: rank[keys[i]])
    return [heldout[i] for i in sorted(order[:most])]


def _choose(sizes: Counter[bytes], wanted: int, seed: int) -> set[bytes]:
    """Return the groups to hold out: at most `wanted` rows in total, or the smallest group if all are larger."""
    order, chosen = dedupe.ordered(sizes, seed), set()
    left = wanted
    for key in order:
        if sizes[key] <= left:
            chosen.add(key)
            left -= sizes[key]
    return chosen or {min(order, key=lambda key: sizes[key])}


def without_overlap(
    train: Sequence[Example], heldout: Sequence[Example], data: DataSection
) -> tuple[list[Example], int]:
    """Apply `data.eval_overlap`; return the training rows and the number of held-out rows found among them.

    Raises DataError, with the first shared rows on both sides, if overlap is an error, or if nothing would be left to
    train on.
    """
    shared = dedupe.overlap(train, heldout)
    if not shared:
        return list(train), 0
    places = "; ".join(f"{held.where} is {trained.where} there" for held, trained in shared[:MAX_SHOWN])
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
        return list(train), len(shared)
    remaining = dedupe.without(train, heldout)
    if not remaining:
        raise DataError(f"{text}: with data.eval_overlap drop, no row would be left to train on")
    say(f"data: {text}: {len(train) - len(remaining)} training rows are dropped (data.eval_overlap drop)")
    return remaining, len(shared)


def near(train: Sequence[Row], heldout: Sequence[Row], data: DataSection) -> tuple[int, str]:
    """Return the number of held-out rows with a near duplicate among the training rows, and a warning or ""."""
    found = dedupe.near_duplicates(_examples(train), _examples(heldout))
    if not found.pairs:
        return 0, ""
    held, trained = found.pairs[0]
    files = (f"{data.eval_path} ", f"{data.path} ") if data.eval_path else ("", "")
    some = "" if found.whole else " (not all training rows were compared)"
    return len(found.pairs), (
        f"{len(found.pairs)} of {found.compared} held-out rows are near duplicates of training rows{some}: the same"
        f" prompt, or half of the five-word sequences (first: {files[0]}{held.where} and {files[1]}{trained.where});"
        " the eval loss and the exam will look better than they would on new rows"
    )


def _examples(rows: Sequence[Row]) -> list[Example]:
    return list({id(row.example): row.example for row in rows}.values())
