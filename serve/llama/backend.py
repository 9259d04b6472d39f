"""The engine's Backend, implemented with llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence as Many

from burnish.dialects.find import Found
from burnish.errors import UserError
from burnish.llama import Context, Model

from ..decoding.row import Row
from ..engine.backend import Output, Sampled
from ..engine.events import TokenLogprob
from ..engine.kv_cells import Op
from ..engine.sequence import Sequence
from ..engine.step import FillerToken, ScheduledTokens
from .sampling import StepSampler
from .threads import Threads
from .token_table import marks


class LlamaBackend:
    """A model and its context. With `shared`, sequences share KV cells (unified layout)."""

    def __init__(self, model: Model, context: Context, shared: bool) -> None:
        self.model, self.context, self.shared = model, context, shared
        self._sampler = StepSampler(model, context)
        self.threads: Threads | None = None  # if None, the context keeps its thread count
        self._shown = frozenset[int]()  # control tokens returned as text of an answer
        self.serial_rows: frozenset[int] = frozenset()  # batch sizes that decode faster one sequence at a time

    def apply(self, ops: Many[Op]) -> None:
        for op in ops:
            if op.kind == "fork" and self.shared:
                self.context.copy(op.source, op.slot, 0, op.length)
            elif op.kind == "fork":  # separate streams can only be copied whole
                self.context.copy(op.source, op.slot)
                self._cut(op.slot, op.length)
            elif op.kind == "cut":
                self._cut(op.slot, op.length)
            else:
                self.context.remove(op.slot)

    def _cut(self, slot: int, length: int) -> None:
        if self.context.last_position(slot) >= length and not self.context.remove(slot, length):
            raise RuntimeError(
                "this model's KV cache can't be truncated; the scheduler's `reuse` limit must prevent this"
            )

    def decode(self, batch: Many[ScheduledTokens | FillerToken]) -> int:
        if self.threads is not None:
            self.threads.follow()
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        outputs: list[bool] = []
        for part in batch:
            tokens += part.tokens
            positions += range(part.start, part.start + part.count)
            slots += [part.slot] * part.count
            outputs += [part.scored] * (part.count - 1) + [part.scored or part.output]
        return self.context.decode(tokens, positions, slots, outputs)

    def prefers_serial(self, rows: int) -> bool:
        return rows in self.serial_rows

    def sample(self, outputs: Many[Output]) -> list[Sampled | UserError]:
        return self._sampler.sample(outputs)

    def forced(self, sequence: Sequence, tokens: Many[int]) -> None:
        self._sampler.forced(sequence, tokens)

    def score(self, tokens: Many[int], index: int, top: int) -> list[TokenLogprob]:
        rows = (Row(self.context.logits(index + i)) for i in range(len(tokens)))
        return [self._sampler.logprob(token, row, top) for token, row in zip(tokens, rows, strict=True)]

    def show(self, dialects: Found) -> None:
        """From now on, return the control tokens around calls and reasoning as text, for the output parsers."""
        self._shown = frozenset(marks(self.model, dialects).values()) - self.model.eog_ids()

    def piece(self, token: int) -> bytes:
        return self.model.piece(token, special=token in self._shown)

    def release(self, sequence: Sequence) -> None:
        self._sampler.release(sequence)

    def close(self) -> None:
        """Free the context and the model."""
        self._sampler.close()
        self.context.close()
        self.model.close()
