"""The exam's questions to a GGUF: raw logits at given positions of given rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from burnish.llama.context import Context, Floats
from burnish.llama.model import Model
from burnish.llama.runtime import LlamaError

SCORE_CHUNK_TOKENS = 512
# rows of logits that one decode of the exam may return: 64 rows of a 152k vocabulary are 39 MB
SCORE_CHUNK_ROWS = 64


def score(
    model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], threads: int | None = None
) -> Iterator[Floats]:
    """Yield, per (token ids, positions), the raw logits float32 [len(positions), n_vocab]; row p predicts token p+1.

    One context sized to the longest row; only the asked positions are computed. Raises LlamaError for a position
    outside its row, and where llama.cpp fails.
    """
    longest = max((len(ids) for ids, _ in sequences), default=0)
    chunk = min(SCORE_CHUNK_TOKENS, max(longest, 1))
    with Context(model, n_ctx=longest + 8, n_batch=chunk, n_ubatch=chunk, threads=threads) as context:
        for ids, positions in sequences:
            if any(not 0 <= p < len(ids) for p in positions):
                raise LlamaError(f"an exam position lies outside its row of {len(ids)} tokens")
            context.clear()
            yield _score_one(context, ids, positions, chunk)


def _score_one(context: Context, ids: Sequence[int], positions: Sequence[int], chunk: int) -> Floats:
    wanted = set(positions)
    rows: dict[int, Floats] = {}
    start, last = 0, max(positions, default=-1) + 1
    while start < last:
        end, outputs = start, 0
        while end < min(last, start + chunk) and outputs < SCORE_CHUNK_ROWS:
            outputs += end in wanted
            end += 1
        asked = [p in wanted for p in range(start, end)]
        code = context.decode(ids[start:end], range(start, end), [0] * (end - start), asked)
        if code:
            raise LlamaError(f"{context.model.path}: llama.cpp could not decode the row (code {code})")
        rows.update({p: context.logits(p - start).copy() for p in range(start, end) if p in wanted})
        start = end
    return np.stack([rows[p] for p in positions]) if rows else np.empty((0, context.model.n_vocab), np.float32)
