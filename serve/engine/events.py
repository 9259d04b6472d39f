"""A sequence's events: prompt log-probabilities if requested, new text, and the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token: its bytes, its log-probability in nats (before penalties and temperature), and the alternatives.

    `top` holds (token id, log-probability) of the most likely tokens, most likely first.
    """

    token: int
    data: bytes
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Delta:
    """New text of a streamed sequence, the log-probabilities of its tokens, and the tokens generated so far."""

    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)
    completion_tokens: int = 0


@dataclass(slots=True)
class PromptLogprobs:
    """The log-probabilities of the prompt's tokens after the first. If requested, sent before any text."""

    logprobs: list[TokenLogprob]


@dataclass(slots=True)
class Finished:
    """The end of a sequence: the reason, the last text (all of it if not streamed), and the counts for `usage`.

    `refused`: the error is the request's error.
    """

    reason: FinishReason
    text: str
    logprobs: list[TokenLogprob]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    error: str | None = None
    refused: bool = False


Event = PromptLogprobs | Delta | Finished
Sink = Callable[[Event], None]
