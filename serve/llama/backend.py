"""The engine's Backend on llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np

from burnish.llama import Context, Model, Sampler

from ..decoding.constraints import Mask
from ..engine.backend import Sampled
from ..engine.events import TokenLogprob
from ..engine.kv_cells import Op
from ..engine.sequence import Sequence
from ..engine.step import FillerToken, ScheduledTokens


class LlamaBackend:
    """A model and its context. `shared`: its sequences share cells (unified layout)."""

    def __init__(self, model: Model, context: Context, shared: bool) -> None:
        self.model, self.context, self.shared = model, context, shared
        self._samplers: dict[int, Sampler] = {}  # by the sequence's number
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

    def decode(self, batch: Many[ScheduledTokens | FillerToken]) -> int:
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

    def sample(self, sequence: Sequence, index: int, allowed: Mask | None) -> Sampled:
        logprobs = sequence.params.logprobs
        sampler = self._samplers.get(sequence.number)
        if sampler is None:
            sampler = self._samplers[sequence.number] = self._make_sampler(sequence)
        # read before sampling: masks and biases must not change what is reported
        logits = self.context.logits(index).astype(np.float64) if logprobs is not None else None
        token = sampler.sample(self.context, index, allowed)
        return Sampled(token, None if logits is None else self._logprob(token, logits, logprobs or 0))

    def _make_sampler(self, sequence: Sequence) -> Sampler:
        p = sequence.params
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
            logit_bias=p.logit_bias,
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
        sampler = self._samplers.pop(sequence.number, None)
        if sampler is not None:
            sampler.close()

    def close(self) -> None:
        """Free the context and the model."""
        self.context.close()
        self.model.close()
