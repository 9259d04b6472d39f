"""One answer in the making: what was asked of it, how far it is, and what it tells the client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn; names and meanings as on OpenAI's wire and in llama.cpp.

    temperature 0 is greedy; top_k 0 and top_p 1 keep every token; `logprobs` is how many alternatives to report per
    token (0: only the drawn one), or None for no log-probabilities.
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
    ignore_eos: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token: its bytes, its log-probability in nats (before penalties and temperature), and the likeliest.

    `top` holds (token id, log-probability), the likeliest first.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Delta:
    """New text of a streamed sequence, and the log-probabilities of the tokens in it."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(slots=True)
class Finished:
    """The end of a sequence: the last text (all of it where it was not streamed), why, and the counts for `usage`."""

    reason: FinishReason
    text: str
    logprobs: list[TokenLogprob]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    error: str | None = None


Event = Delta | Finished
Sink = Callable[[Event], None]


@dataclass(eq=False)
class Sequence:
    """A prompt and what was generated after it. Only the engine's thread changes one once it is submitted.

    `tokens` is the prompt and the output; the first `held` of them have cells in `slot`. `context` is the most tokens
    that it may come to.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    context: int
    sink: Sink
    stream: bool = False
    stop: tuple[str, ...] = ()
    created: float = field(default_factory=time.monotonic)

    number: int = 0  # order of arrival
    tokens: list[int] = field(default_factory=list)
    held: int = 0
    slot: int | None = None
    cached: int = 0
    preemptions: int = 0
    cancelled: bool = False
    first_token_at: float | None = None
    last_token_at: float | None = None
    sampler: Any = None
    text: Any = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def generated(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - len(self.prompt)

    @property
    def pending(self) -> int:
        """How many known tokens have no cells yet: 1 while generating, more while its prompt is being read."""
        return len(self.tokens) - self.held

    @property
    def reading(self) -> bool:
        """Whether its prompt (or, after a preemption, all that it had) is still being read."""
        return self.held < len(self.prompt) or self.pending > 1

    @property
    def most_left(self) -> int:
        """How many tokens it may still generate."""
        return min(self.max_tokens - self.generated, self.context - len(self.tokens))
