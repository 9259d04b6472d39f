"""Before the first client: prove that the model computes, and measure what a step costs by its number of sequences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from burnish.llama import Context, LlamaError

from .backend import LlamaBackend

# more sequences than these were never cheaper one by one (SmolLM2-135M Q8_0: 4 at once took 23 ms, one 6 ms)
MOST_SINGLY = 4
ROUNDS = 5
MOST_SECONDS = 0.4
# one by one must be faster by this share: what is measured at start is measured beside other work, too
LEAST_GAIN = 0.05


def warm_up(backend: LlamaBackend) -> None:
    """Decode one token, which also touches the model's pages; then measure. Raises LlamaError where it can't."""
    step = _step(backend.context, max(backend.model.bos_id, 0))
    if step(1):
        raise LlamaError(f"{backend.model.path}: the model can't be computed")
    backend.context.logits(0)
    most = min(MOST_SINGLY, backend.context.n_seq_max)
    backend.rows_singly = rows_singly(measure(step, most)) if most > 1 else frozenset()
    backend.context.clear()


def _step(context: Context, token: int) -> Callable[[int], int]:
    """Return what decodes one token in each of so many empty sequences."""

    def step(rows: int) -> int:
        context.clear()
        return context.decode([token] * rows, [0] * rows, list(range(rows)), [True] * rows)

    return step


def measure(step: Callable[[int], int], most: int, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
    """Return the least seconds of a step of 1 to `most` sequences; those for which there was no time are left out.

    A model that needs long for one step is bound by reading its weights, which a batch does once: nothing is lost.
    """
    costs: dict[int, float] = {}
    end = clock() + MOST_SECONDS
    for rows in [*range(1, most + 1)] * ROUNDS:
        began = clock()
        if began >= end:
            break
        if step(rows) == 0:
            costs[rows] = min(costs.get(rows, float("inf")), clock() - began)
    return costs


def rows_singly(costs: Mapping[int, float]) -> frozenset[int]:
    """Return the numbers of sequences that are decoded faster one by one than at once, from the seconds of a step.

    One row is a plain dot product, several are a matrix product, which llama.cpp does badly for few rows.
    """
    alone = costs.get(1, float("inf"))
    return frozenset(n for n, cost in costs.items() if n > 1 and n * alone < (1 - LEAST_GAIN) * cost)
