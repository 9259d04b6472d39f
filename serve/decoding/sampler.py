"""A sequence's sampler: turns the model's logits into the next token."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

from burnish.errors import UserError

from .constraints.constraint import Mask
from .draw import Shape, draw
from .penalties import Counts, Penalties, undo
from .row import Floats, Row

# at lower temperatures, only equal logits could still compete, and dividing by the temperature could overflow
MIN_TEMPERATURE = 1e-6

# gathering the allowed logits is faster than copying all if at most one token in this many is allowed
SPARSE_MASK = 8


class SamplingError(UserError):
    """Raised when no token can be sampled; ends one sequence."""


class Sampler:
    """Samples one sequence's tokens and keeps its penalty state.

    Applies, in llama.cpp's order: logit bias, repeat penalty (over prompt and output), presence and frequency penalty
    (over the output), top-k, top-p, min-p and temperature. Temperature 0 selects the most likely token. The same seed
    and logits yield the same tokens, regardless of other sequences.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        logit_bias: Mapping[int, float] | None = None,
        seed: int = 0,
        prompt: Sequence[int] = (),
    ) -> None:
        """`repeat_last_n`: -1 means all tokens, 0 none."""
        self._shape = Shape(max(temperature, MIN_TEMPERATURE), top_k, top_p, min_p)
        self._greedy = temperature <= 0.0
        self._uniform = random.Random(seed & 0xFFFFFFFFFFFFFFFF).random
        repeated = answered = None
        if repeat_penalty != 1.0 and repeat_last_n:
            repeated = Counts(repeat_last_n if repeat_last_n > 0 else None)
            for token in prompt[-repeat_last_n:] if repeat_last_n > 0 else prompt:
                repeated.add(token)
        if presence_penalty or frequency_penalty:
            answered = Counts()
        self._penalties = Penalties(
            logit_bias or {}, repeat_penalty, presence_penalty, frequency_penalty, repeated, answered
        )

    def sample(self, logits: Floats, allowed: Mask | None = None, row: Row | None = None) -> int:
        """Return the next token, one that is True in `allowed`, bool [n_vocab].

        `logits` is float32 [n_vocab], modified and restored; `row` is an existing Row of them. Raises SamplingError if
        no token is allowed or the logits are not finite.
        """
        if not self._penalties.active:
            token = self._allowed(logits, allowed, row)
        else:
            changed = self._penalties.apply(logits)
            try:
                token = self._allowed(logits, allowed, None)
            finally:
                undo(logits, changed)
        self._penalties.add(token)
        return token

    def count(self, tokens: Sequence[int]) -> None:
        """Count output tokens that were not sampled."""
        for token in tokens:
            self._penalties.add(token)

    @property
    def needs_sum(self) -> bool:
        """Whether sampling needs the exponentials of all logits: for top_p without top_k."""
        return not self._greedy and self._shape.top_p < 1.0 and not self._shape.top_k

    def row(self, logits: Floats, sums: bool = False) -> Row | None:
        """Return a Row of these logits for `sample`, with all full-row passes already computed.

        Returns None if penalties or biases modify the logits first. `sums`: log-probabilities are also requested.
        """
        if self._penalties.active:
            return None
        row = Row(logits, self._greedy)
        if row.usable and (sums or self.needs_sum):
            _ = row.total
        return row

    def _allowed(self, logits: Floats, allowed: Mask | None, row: Row | None) -> int:
        if allowed is None:
            return self._choose(logits, row)
        if self._greedy:
            first = row.likeliest if row else int(logits.argmax())
            if allowed[first] and math.isfinite(logits[first]):
                return first
        count = np.count_nonzero(allowed)
        if not count:
            raise SamplingError("the constraint allows no token")
        if count * SPARSE_MASK > len(allowed):
            return self._choose(np.where(allowed, logits, np.float32(-np.inf)), None)
        ids = np.flatnonzero(allowed)
        return int(ids[self._choose(logits[ids], None)])

    def _choose(self, logits: Floats, row: Row | None) -> int:
        row = row or Row(logits, self._greedy)
        if row.highest == -math.inf:
            raise SamplingError("no token is possible: the constraint, logit_bias or the model excludes all of them")
        if not row.usable:
            raise SamplingError("the model's logits are not finite: its file is damaged or its values overflow")
        return row.likeliest if self._greedy else draw(row, self._shape, self._uniform)
