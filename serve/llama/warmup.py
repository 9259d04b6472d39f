"""Warm-up before the first request: check that the model computes, and time steps with different sequence counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from burnish.llama import Context, LlamaError

from .backend import LlamaBackend

# larger batches were never slower than one sequence at a time (SmolLM2-135M Q8_0: 4 at once took 23 ms, one 6 ms)
MAX_SERIAL_ROWS = 4
ROUNDS = 5
MAX_SECONDS = 0.4
# one at a time must be faster by this share: other work at startup disturbs the measurement
MIN_GAIN = 0.05


def warm_up(backend: LlamaBackend) -> None:
    """Decode one token, which also touches the model's pages, then measure. Raises LlamaError if decoding fails."""
    step = _step(backend.context, max(backend.model.bos_id, 0))
    if step(1):
        raise LlamaError(f"{backend.model.path}: llama.cpp failed to decode the first token")
    backend.context.logits(0)
    limit = min(MAX_SERIAL_ROWS, backend.context.n_seq_max)
    backend.serial_rows = serial_rows(measure(step, limit)) if limit > 1 else frozenset()
    backend.context.clear()


def _step(context: Context, token: int) -> Callable[[int], int]:
    """Return a function that decodes one token in each of `rows` empty sequences."""

    def step(rows: int) -> int:
        context.clear()
        return context.decode([token] * rows, [0] * rows, list(range(rows)), [True] * rows)

    return step


def measure(step: Callable[[int], int], limit: int, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
    """Return the fastest step time in seconds for 1 to `limit` sequences, as far as MAX_SECONDS allows.

    Skipping the rest loses nothing: a slow model is bound by reading its weights, which a batch reads once.
    """
    costs: dict[int, float] = {}
    end = clock() + MAX_SECONDS
    for rows in [*range(1, limit + 1)] * ROUNDS:
        began = clock()
        if began >= end:
            break
        if step(rows) == 0:
            costs[rows] = min(costs.get(rows, float("inf")), clock() - began)
    return costs


def serial_rows(costs: Mapping[int, float]) -> frozenset[int]:
    """Return the batch sizes that decode faster one sequence at a time, given the step time of each size in seconds.

    One row is a dot product; several are a matrix product, which is slow in llama.cpp for few rows.
    """
    alone = costs.get(1, float("inf"))
    return frozenset(n for n, cost in costs.items() if n > 1 and n * alone < (1 - MIN_GAIN) * cost)
