"""One sequence: its request and its progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from enum import Enum

from ..decoding.constraints.constraint import UNCONSTRAINED, Constraint
from ..decoding.stop_conditions import StopConditions
from .detokenizer import Detokenizer
from .events import Sink, TokenLogprob


class Task(Enum):
    """The task of a sequence after its prompt."""

    GENERATE = "generate"
    PREFILL = "prefill"  # nothing: only its end is reported


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters, with the names and meanings of OpenAI's API and llama.cpp.

    temperature 0 is greedy; top_k 0 and top_p 1 keep every token. `logprobs` is how many alternatives to report per
    token (0: only the sampled token; None: no log-probabilities), `prompt_logprobs` the same for the prompt's tokens.
    `constraint` belongs to this sequence alone.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    constraint: Constraint = UNCONSTRAINED


@dataclass(eq=False)
class Sequence:
    """A prompt and its output. Once submitted, only the engine thread modifies it.

    `tokens` is the prompt and the output; the first `held` of them have cells in `slot`. `scores` are the
    log-probabilities computed so far for the prompt's tokens after the first, if requested.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    stop: StopConditions
    sink: Sink
    stream: bool = False
    task: Task = Task.GENERATE
    created: float = field(default_factory=time.monotonic)

    number: int = 0  # order of arrival
    tokens: list[int] = field(default_factory=list)
    held: int = 0
    forced: int = 0  # tokens at the end that were appended without sampling
    slot: int | None = None
    cached: int = 0
    scores: list[TokenLogprob] = field(default_factory=list)
    preemptions: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    detokenizer: Detokenizer = field(init=False)

    def __post_init__(self) -> None:
        self.tokens, self.detokenizer = list(self.prompt), Detokenizer(self.stop.strings)

    @property
    def generated(self) -> int:
        """The number of generated tokens."""
        return len(self.tokens) - len(self.prompt)

    @property
    def pending(self) -> int:
        """The number of tokens without cells: 1 plus forced tokens while generating, usually more during prefill."""
        return len(self.tokens) - self.held

    @property
    def prefilling(self) -> bool:
        """Whether its prompt (after a preemption: its prompt and output) is still being computed."""
        return self.held < len(self.prompt) or self.pending > 1 + self.forced

    @property
    def unscored(self) -> int:
        """The number of prompt tokens that still lack a requested log-probability."""
        return 0 if self.params.prompt_logprobs is None else len(self.prompt) - 1 - len(self.scores)

    @property
    def reusable(self) -> Many[int]:
        """The tokens whose cells may be reused from other sequences: a score needs the previous token's logits."""
        return self.tokens[: len(self.scores) + 1] if self.unscored else self.tokens

    @property
    def tokens_left(self) -> int:
        """The number of tokens that the sequence may still generate."""
        return self.stop.tokens_left(len(self.prompt), len(self.tokens))
