"""One sequence's sampler: a chain of llama.cpp's own samplers, or an argmax where no more was asked for than a bias."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .context import Context, Floats
from .model import Model
from .runtime import LlamaError, api

Allowed = npt.NDArray[np.bool_]
# llama.cpp takes this seed to mean "draw one"
RANDOM_SEED = 0xFFFFFFFF


class Sampler:
    """Chooses the next token of one sequence and remembers what its penalties need. Close it when the sequence ends.

    In llama.cpp's order: logit bias, repeat penalty (over prompt and output), presence and frequency penalty (over the
    output), top-k, top-p, min-p, temperature, draw. Temperature 0 takes the likeliest token.
    """

    def __init__(
        self,
        model: Model,
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
        self.model = model
        self._owned: list[Any] = []
        vocabulary = model.n_vocab
        bias = logit_bias or {}
        model.check_ids(list(bias))
        self._biased = np.fromiter(bias.keys(), np.int64, len(bias))
        self._biases = np.fromiter(bias.values(), np.float32, len(bias))
        self._bias, self._raises = frozenset(bias), any(value > 0 for value in bias.values())
        if repeat_penalty != 1.0 and repeat_last_n:
            last = repeat_last_n if repeat_last_n > 0 else model.n_ctx_train
            repeat = api.llama_sampler_init_penalties(vocabulary, last, repeat_penalty, 0.0, 0.0)
            for token in prompt[-last:]:
                api.llama_sampler_accept(repeat, token)
            self._owned.append(repeat)
        if presence_penalty or frequency_penalty:
            last = model.n_ctx_train
            self._owned.append(
                api.llama_sampler_init_penalties(vocabulary, last, 1.0, frequency_penalty, presence_penalty)
            )
        self.greedy = temperature <= 0.0
        self.chain: Any = None
        if not self.greedy or self._owned:
            if bias:
                pairs = (api.llama_logit_bias * len(bias))(*bias.items())
                self._owned.insert(0, api.llama_sampler_init_logit_bias(vocabulary, len(bias), pairs))
            self._owned += self._draw(temperature, top_k, top_p, min_p, seed)
            self.chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
            for part in self._owned:
                api.llama_sampler_chain_add(self.chain, part)

    def _draw(self, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> list[Any]:
        if self.greedy:
            return [api.llama_sampler_init_greedy()]
        parts = [api.llama_sampler_init_top_k(top_k)] if top_k > 0 else []
        parts += [api.llama_sampler_init_top_p(top_p, 1)] if top_p < 1.0 else []
        parts += [api.llama_sampler_init_min_p(min_p, 1)] if min_p > 0.0 else []
        parts += [api.llama_sampler_init_temp(temperature)] if temperature != 1.0 else []
        bounded = seed & 0xFFFFFFFF
        return [*parts, api.llama_sampler_init_dist(bounded if bounded != RANDOM_SEED else 0)]

    def sample(self, context: Context, index: int, allowed: Allowed | None = None) -> int:
        """Return the next token after batch token `index`; only one that is True in `allowed`, bool [n_vocab].

        `allowed` sets the context's logits of the other tokens to -inf. Raises LlamaError where nothing is allowed, and
        where the logits are not numbers: llama.cpp would end the process on those.
        """
        logits = context.logits(index)
        if allowed is not None:
            if not allowed.any():
                raise LlamaError("the constraint allows no token")
            logits[~allowed] = -np.inf
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            raise LlamaError("the model's logits are not numbers (a damaged or overflowing model)")
        if self.chain is not None:
            return int(api.llama_sampler_sample(self.chain, context.handle, index))
        # where biases only lower, a token that has none stays the likeliest
        return self._best_biased(logits) if self._raises or best in self._bias else best

    def _best_biased(self, logits: Floats) -> int:
        """Return the likeliest token with the biases, which llama.cpp's chain takes a copy of the vocabulary for."""
        plain = logits[self._biased]
        logits[self._biased] = plain + self._biases
        best = int(logits.argmax())
        logits[self._biased] = plain
        return best

    def close(self) -> None:
        """Free the chain; a second call does nothing."""
        chain, self.chain = self.chain, None
        if chain:
            api.llama_sampler_free(chain)
