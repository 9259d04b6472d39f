"""Pack variable-length rows into micro-batches within a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Divide a step's rows into as few micro-batches as practical, each of at most `budget` tokens.

    First-fit decreasing (Johnson 1973: at most 11/9 of the optimum, plus one). Rows are never split: a row longer than
    the budget gets its own micro-batch. Returns each row number exactly once, in order within a micro-batch.
    """
    bins: list[list[int]] = []
    free: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, left in enumerate(free) if left >= lengths[row]), None)
        if place is None:
            bins.append([row])
            free.append(budget - lengths[row])
        else:
            bins[place].append(row)
            free[place] -= lengths[row]
    return [sorted(rows) for rows in bins]


def padded_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Do the same for a model that needs padding: row count times longest row stays within the budget.

    Rows of similar length are grouped to reduce padding.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # a batch's first row is its longest
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
