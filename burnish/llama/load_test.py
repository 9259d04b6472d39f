"""Load and run a file as serve and the exam do, in a child process, since it may crash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .amx import Amx, decide
from .context import Context
from .model import Model
from .runtime import LlamaError

# tokens per batch: two tiles of 16 rows plus a remainder, a few rows, and one row, which uses a different kernel
BATCHES = (40, 3, 1)
CELLS = 64
TEXT = "Naïve café 你好 🙂\n\tx = 1_234.5  <s></s><|im_end|>\x00 THEY'RE"
MAX_PIECES = 50_000


@dataclass(frozen=True)
class Loaded:
    """Weight buffer sizes in MiB by name, and whether all logits were finite."""

    buffers: dict[str, float]
    finite: bool


def load_test(path: Path, amx: Amx) -> Loaded:
    """Load a file and decode a few batches. Raises LlamaError if that fails, or if AMX should be used but no weight is
    in an AMX buffer."""
    with Model.open(path, amx=amx) as model, Context(model, n_ctx=CELLS, n_batch=max(BATCHES), n_seq_max=2) as context:
        if amx == "on" and decide(path, amx).amx and not model.amx:
            raise LlamaError(f"{path}: no weight is in an AMX buffer ({', '.join(model.buffers)})")
        if not model.n_vocab:
            raise LlamaError(f"{path} has no vocabulary")
        _use_vocabulary(model)
        start, finite = 0, True
        for count in BATCHES:
            tokens = [(7 * i + count) % model.n_vocab for i in range(count)]
            if context.decode(tokens, range(start, start + count), [0] * count, [False] * (count - 1) + [True]):
                raise LlamaError(f"{path}: a batch of {count} tokens can't be decoded")
            finite = finite and bool(np.isfinite(context.logits(count - 1)).all())
            start += count
        if not context.decode([0], [0], [1], [True]):  # like serve: decode a second sequence, then remove the first
            finite = finite and bool(np.isfinite(context.logits(0)).all())
        context.remove(0)
        return Loaded(model.buffers, finite)


def _use_vocabulary(model: Model) -> None:
    """Read the metadata, tokenize a text and convert tokens to bytes: otherwise llama.cpp could fail there later."""
    model.metadata()
    model.eog_ids()
    for parse in (True, False):
        model.tokenize(TEXT, add_special=True, parse_special=parse)
    for token in range(0, model.n_vocab, 1 + model.n_vocab // MAX_PIECES):
        model.piece(token, special=True)
