"""What the engine needs of a model: cache operations, a batch, the next token. LlamaBackend is the one on llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from burnish.llama import Context, Model, Sampler

from ..engine.kv_cells import Op
from ..engine.scheduler import Filler, Work
from ..engine.sequence import Sequence, TokenLogprob

DONE = 0
NO_CELLS = 1


@dataclass(slots=True)
class Sampled:
    """A drawn token, whether it ends generation, and its log-probabilities where they were asked for."""

    token: int
    ends: bool
    logprob: TokenLogprob | None = None


class Backend(Protocol):
    """Only the engine's thread calls these."""

    def apply(self, ops: Many[Op]) -> None:
        """Change the cache; a cut that this memory can't do raises."""

    def decode(self, batch: Many[Work | Filler]) -> int:
        """Decode one batch, ordered by slot: DONE, NO_CELLS (nothing changed), or a negative code for a fault."""

    def singly(self, rows: int) -> bool:
        """Whether the next tokens of so many sequences are decoded faster one by one than in one batch."""

    def sample(self, sequence: Sequence, index: int) -> Sampled:
        """Draw the next token of the sequence whose last token was number `index` of the batch."""

    def piece(self, token: int) -> bytes:
        """Return a token's bytes; b"" for control tokens."""

    def release(self, sequence: Sequence) -> None:
        """Free what sampling holds for a sequence."""


class LlamaBackend:
    """A model and its context. `ends` are the token ids that end an answer, the model's own and the run's."""

    def __init__(self, model: Model, context: Context, ends: frozenset[int], shared: bool) -> None:
        self.model, self.context, self.ends, self.shared = model, context, ends, shared
        self.rows_singly: frozenset[int] = frozenset()
        self._pieces: dict[int, bytes] = {}

    def apply(self, ops: Many[Op]) -> None:
        for op in ops:
            if op.kind == "fork" and self.shared:
                self.context.copy(op.source, op.slot, 0, op.length)
            elif op.kind == "fork":  # between separate streams only whole sequences can be copied
                self.context.copy(op.source, op.slot)
                self._cut(op.slot, op.length)
            elif op.kind == "cut":
                self._cut(op.slot, op.length)
            else:
                self.context.remove(op.slot)

    def _cut(self, slot: int, length: int) -> None:
        if self.context.last_position(slot) >= length and not self.context.remove(slot, length):
            raise RuntimeError("this model's memory can't be cut; the prefix rule should have known")

    def decode(self, batch: Many[Work | Filler]) -> int:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[bool] = []
        for part in batch:
            tokens += part.tokens
            positions += range(part.start, part.start + part.count)
            slots += [part.slot] * part.count
            outputs += [False] * (part.count - 1) + [part.output]
        return self.context.decode(tokens, positions, slots, outputs)

    def singly(self, rows: int) -> bool:
        return rows in self.rows_singly

    def sample(self, sequence: Sequence, index: int) -> Sampled:
        params = sequence.params
        if sequence.sampler is None:
            sequence.sampler = self._sampler(sequence)
        # read before sampling: masks and biases must not change what is reported
        logits = self.context.logits(index).astype(np.float64) if params.logprobs is not None else None
        token = sequence.sampler.sample(self.context, index)
        logprob = None
        if logits is not None:
            logprob = self._logprob(token, logits, params.logprobs or 0)
        return Sampled(token, token in self.ends and not params.ignore_eos, logprob)

    def _sampler(self, sequence: Sequence) -> Sampler:
        p = sequence.params
        bias = {**dict.fromkeys(self.ends, float("-inf")), **p.logit_bias} if p.ignore_eos else p.logit_bias
        return Sampler(
            self.model,
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repeat_penalty=p.repeat_penalty,
            repeat_last_n=p.repeat_last_n,
            logit_bias=bias,
            seed=p.seed,
            prompt=sequence.prompt,
        )

    def _logprob(self, token: int, logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]], top: int) -> TokenLogprob:
        """Log-softmax of the raw logits: log p(i) = x_i - log sum_j exp(x_j)."""
        highest = float(logits.max())
        total = highest + float(np.log(np.exp(logits - highest).sum()))
        best = np.argpartition(logits, -top)[-top:] if top else np.empty(0, np.int64)
        ranked = sorted(((int(i), float(logits[i]) - total) for i in best), key=lambda pair: -pair[1])
        data = self.model.piece(token, special=True)
        return TokenLogprob(token, data, float(logits[token]) - total, tuple(ranked))

    def piece(self, token: int) -> bytes:
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self.model.piece(token)
        return found

    def release(self, sequence: Sequence) -> None:
        if sequence.sampler is not None:
            sequence.sampler.close()
            sequence.sampler = None

    def close(self) -> None:
        """Free the context and the model."""
        self.context.close()
        self.model.close()
