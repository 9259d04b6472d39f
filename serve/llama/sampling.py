"""Samples all next tokens of a step together, in several threads if there are many logits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from burnish.errors import UserError
from burnish.llama import Context, LlamaError, Model
from burnish.machine import cpu_count

from ..decoding.row import Floats, Row
from ..decoding.sampler import Sampler
from ..engine.backend import Output, Sampled
from ..engine.events import TokenLogprob
from ..engine.sequence import Sequence

# rows that need exponentials of all their logits are read in threads if a step has at least this many such logits.
# Other rows are not: on 16 cores, 32 rows of 128,256 took 4.6 ms in one thread and 5.5 ms in four.
MIN_THREADED_LOGITS = 1 << 20
# more threads would only wait for each other (16 cores, 32 rows of 128,256)
MAX_THREADS = 4

Draw = tuple[Output, Sampler, Floats]


class StepSampler:
    """The samplers of the running sequences. numpy releases the GIL during a pass over a row: long ones use threads."""

    def __init__(self, model: Model, context: Context, threads: int | None = None) -> None:
        self._model, self._context = model, context
        self._threads = min(threads or cpu_count(), MAX_THREADS)
        self._samplers: dict[int, Sampler] = {}  # by sequence number
        self._pool: ThreadPoolExecutor | None = None

    def sample(self, outputs: Many[Output]) -> list[Sampled | UserError]:
        """Return each output's sampled token or error, independently of the others."""
        draws = [(o, self._sampler(o.sequence), self._context.logits(o.index)) for o in outputs]
        heavy = sum(s.needs_sum or o.sequence.params.logprobs is not None for o, s, _ in draws)
        if heavy * self._model.n_vocab < MIN_THREADED_LOGITS or self._threads < 2:
            return [self._draw(*draw) for draw in draws]
        return [
            self._draw(*draw, part) if isinstance(part, Row) else part
            for draw, part in zip(draws, self._in_threads(draws), strict=True)
        ]

    def _in_threads(self, draws: list[Draw]) -> list[Row | Sampled | UserError]:
        """Run full-row passes in several threads. The short calls after them would only wait for the GIL there."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "sampler")
        left = deque(enumerate(draws))
        done: dict[int, Row | Sampled | UserError] = {}

        def work() -> None:
            while left:
                try:
                    number, draw = left.popleft()
                except IndexError:  # another thread took the last one
                    return
                done[number] = self._read(*draw)

        helpers = [self._pool.submit(work) for _ in range(min(self._threads, len(draws)) - 1)]
        work()
        for helper in helpers:
            helper.result()
        return [done[number] for number in range(len(draws))]

    def _read(self, output: Output, sampler: Sampler, logits: Floats) -> Row | Sampled | UserError:
        """Return a Row to sample from, or the sampled token if the logits are modified or masked first."""
        row = sampler.row(logits, sums=output.sequence.params.logprobs is not None)
        return self._draw(output, sampler, logits) if row is None or output.allowed is not None else row

    def _draw(self, output: Output, sampler: Sampler, logits: Floats, row: Row | None = None) -> Sampled | UserError:
        top = output.sequence.params.logprobs
        row = Row(logits) if row is None and top is not None else row
        try:
            token = sampler.sample(logits, output.allowed, row)
            return Sampled(token, None if row is None or top is None else self.logprob(token, row, top))
        except UserError as error:
            return error

    def logprob(self, token: int, row: Row, top: int) -> TokenLogprob:
        """Return the log-probabilities, before penalties, of the token and of the `top` most likely tokens.

        Raises LlamaError if the logits are not finite.
        """
        if not row.usable:
            raise LlamaError("the model's logits are not finite: its file is damaged or its values overflow")
        likeliest = row.top(top)
        own, *others = row.logprobs(np.append(token, likeliest))
        ranked = tuple(zip(map(int, likeliest), others, strict=True))
        return TokenLogprob(token, self._model.piece(token, special=True), own, ranked)

    def _sampler(self, sequence: Sequence) -> Sampler:
        sampler = self._samplers.get(sequence.number)
        if sampler is None:
            p = sequence.params
            sampler = self._samplers[sequence.number] = Sampler(
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
        return sampler

    def forced(self, sequence: Sequence, tokens: Many[int]) -> None:
        """Count tokens that were appended without sampling."""
        self._sampler(sequence).count(tokens)

    def release(self, sequence: Sequence) -> None:
        """Remove a sequence's sampler."""
        self._samplers.pop(sequence.number, None)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
