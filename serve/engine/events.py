"""What the client of a sequence gets: the prompt's log-probabilities if it asked for them, new text, then the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token: its bytes, its log-probability in nats (before penalties and temperature), and the likeliest.

    `top` holds (token id, log-probability), the likeliest first.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Delta:
    """New text of a streamed sequence, the log-probabilities of its tokens, and how many were generated so far."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)
    completion_tokens: int = 0


@dataclass(slots=True)
class PromptRead:
    """The log-probabilities of the prompt's tokens after its first: comes before all text where they were wanted."""

    logprobs: list[TokenLogprob]


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


Event = PromptRead | Delta | Finished
Sink = Callable[[Event], None]
