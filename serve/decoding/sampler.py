"""One sequence's sampler: from the model's logits to the next token."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

from burnish.errors import UserError

from .constraints import Mask
from .draw import Shape, draw
from .penalties import Counts, Penalties, undo
from .row import Floats, Row


class SamplingError(UserError):
    """No token can be drawn; it ends one sequence."""


class Sampler:
    """Chooses the next token of one sequence, and remembers what its penalties need.

    In llama.cpp's order: logit bias, repeat penalty (over prompt and answer), presence and frequency penalty (over the
    answer), top-k, top-p, min-p, temperature, draw. Temperature 0 takes the likeliest token. The same seed draws the
    same tokens from the same logits, whatever other sequences there are.
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
        """`repeat_last_n` -1 looks at all tokens, 0 at none."""
        self._shape = Shape(temperature, top_k, top_p, min_p)
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
        """Return the next token; only one that is True in `allowed`, bool [n_vocab].

        `logits` are float32 [n_vocab], changed meanwhile and set back; `row` is made of them, where there is one
        already. Raises SamplingError where nothing is allowed, and where the logits are not numbers.
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

    def _allowed(self, logits: Floats, allowed: Mask | None, row: Row | None) -> int:
        if allowed is None:
            return self._choose(logits, row)
        ids = np.flatnonzero(allowed)
        if not len(ids):
            raise SamplingError("the constraint allows no token")
        return int(ids[self._choose(logits[ids], None)])

    def _choose(self, logits: Floats, row: Row | None) -> int:
        row = row or Row(logits)
        if row.highest == -math.inf:
            raise SamplingError("every token is ruled out, by the constraint, by logit_bias or by the model itself")
        if not row.usable:
            raise SamplingError("the model's logits are not numbers (a damaged or overflowing model)")
        return row.likeliest if self._greedy else draw(row, self._shape, self._uniform)
