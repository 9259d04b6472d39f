"""Load a file as serve and the exam will, and compute with it: run in a child process, which it may end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .amx import Amx, decide
from .context import Context
from .model import Model
from .runtime import LlamaError

# tokens of each batch: two tiles of 16 rows and a rest, a few rows, and one, which is another kernel in llama.cpp
BATCHES = (40, 3, 1)


@dataclass(frozen=True)
class Loaded:
    """The buffers that the weights took, in MiB by name, and whether all logits were finite."""

    buffers: dict[str, float]
    finite: bool


def load_test(path: Path, amx: Amx) -> Loaded:
    """Load a file and decode a few batches. Raises LlamaError where that fails, and where AMX should be used and no
    weight went into its buffer."""
    with Model.open(path, amx=amx) as model, Context(model, n_ctx=64, n_batch=max(BATCHES)) as context:
        if amx == "on" and decide(path, amx).amx and not model.amx:
            raise LlamaError(f"{path}: no weight went into an AMX buffer ({', '.join(model.buffers)})")
        start, finite = 0, True
        for count in BATCHES:
            tokens = [(7 * i + count) % model.n_vocab for i in range(count)]
            if context.decode(tokens, range(start, start + count), [0] * count, [False] * (count - 1) + [True]):
                raise LlamaError(f"{path}: a batch of {count} tokens can't be decoded")
            finite = finite and bool(np.isfinite(context.logits(count - 1)).all())
            start += count
        return Loaded(model.buffers, finite)
