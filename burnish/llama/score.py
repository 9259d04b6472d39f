"""Score exam rows with a GGUF: compute raw logits at given positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from .context import Context, Floats
from .model import Model
from .runtime import LlamaError

SCORE_CHUNK_TOKENS = 512
# maximum logit rows per decode: 64 rows with a 152k vocabulary are 39 MB
SCORE_CHUNK_ROWS = 64


def score(
    model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], threads: int | None = None
) -> Iterator[Floats]:
    """Yield raw logits for each (token ids, positions), float32 [len(positions), n_vocab]; row p predicts token p+1.

    The context is sized for the longest row; logits are computed only at the given positions. Raises LlamaError for a
    position outside its row, or if llama.cpp fails.
    """
    for (_, positions), chunks in _scored(model, sequences, threads):
        rows = np.concatenate([np.empty((0, model.n_vocab), np.float32), *chunks])
        places = {position: place for place, position in enumerate(sorted(set(positions)))}
        yield rows[[places[position] for position in positions]]


def score_chunks(
    model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], threads: int | None = None
) -> Iterator[Floats]:
    """Yield the same logits as `score`, in chunks of float32 [at most 64, n_vocab].

    Each sequence's positions must be increasing: rows are yielded in the order in which the model reads them.
    """
    for (_, positions), chunks in _scored(model, sequences, threads):
        if any(second <= first for first, second in pairwise(positions)):
            raise LlamaError("the exam positions are not in increasing order")
        yield from chunks


def _scored(
    model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], threads: int | None
) -> Iterator[tuple[tuple[Sequence[int], Sequence[int]], Iterator[Floats]]]:
    """Yield each sequence with its logit chunks, which must be consumed before the next sequence."""
    longest = max((len(ids) for ids, _ in sequences), default=0)
    chunk = min(SCORE_CHUNK_TOKENS, max(longest, 1))
    with Context(model, n_ctx=longest + 8, n_batch=chunk, n_ubatch=chunk, threads=threads) as context:
        for ids, positions in sequences:
            if any(not 0 <= p < len(ids) for p in positions):
                raise LlamaError(f"an exam position is outside its row of {len(ids)} tokens")
            context.clear()
            yield (ids, positions), _score_one(context, ids, positions, chunk)


def _score_one(context: Context, ids: Sequence[int], positions: Sequence[int], chunk: int) -> Iterator[Floats]:
    wanted = set(positions)
    start, last = 0, max(positions, default=-1) + 1
    while start < last:
        end, outputs = start, 0
        while end < min(last, start + chunk) and outputs < SCORE_CHUNK_ROWS:
            outputs += end in wanted
            end += 1
        with_logits = [p in wanted for p in range(start, end)]
        code = context.decode(ids[start:end], range(start, end), [0] * (end - start), with_logits)
        if code:
            raise LlamaError(f"{context.model.path}: llama.cpp could not decode the row (code {code})")
        rows = [context.logits(p - start).copy() for p in range(start, end) if p in wanted]
        if rows:
            yield np.stack(rows)
        start = end
