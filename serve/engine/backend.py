"""The engine's interface to a model: cache operations, decoding, sampling. serve.llama implements it with llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from burnish.errors import UserError

from ..decoding.constraints.constraint import Mask
from .events import TokenLogprob
from .kv_cells import Op
from .sequence import Sequence
from .step import FillerToken, ScheduledTokens

DONE = 0
NO_CELLS = 1


@dataclass(slots=True)
class Output:
    """A sequence whose next token is sampled from the logits at position `index` of the batch.

    Only tokens that are True in `allowed` may be sampled; None allows all.
    """

    sequence: Sequence
    index: int
    allowed: Mask | None = None


@dataclass(slots=True)
class Sampled:
    """A sampled token, and its log-probabilities if requested."""

    token: int
    logprob: TokenLogprob | None = None


class Backend(Protocol):
    """A model and its cache. Only the engine thread calls these methods."""

    def apply(self, ops: Many[Op]) -> None:
        """Apply cache operations. Raises RuntimeError for a cut that this model's cache doesn't support."""

    def decode(self, batch: Many[ScheduledTokens | FillerToken]) -> int:
        """Decode one batch, ordered by slot. Return DONE, NO_CELLS (nothing changed), or a negative error code."""

    def prefers_serial(self, rows: int) -> bool:
        """Whether `rows` sequences, one token each, decode faster one at a time than in one batch."""

    def sample(self, outputs: Many[Output]) -> list[Sampled | UserError]:
        """Sample the next token of each output, or return its error, which ends that sequence only."""

    def forced(self, sequence: Sequence, tokens: Many[int]) -> None:
        """Record output tokens that were not sampled: penalties count them too."""

    def score(self, tokens: Many[int], index: int, top: int) -> list[TokenLogprob]:
        """Return the log-probability of each of `tokens`, and the `top` most likely alternatives.

        `tokens[i]` is scored with the logits at position `index + i` of the batch. A UserError ends this sequence only.
        """

    def piece(self, token: int) -> bytes:
        """Return a token's bytes; b"" for control tokens."""

    def release(self, sequence: Sequence) -> None:
        """Free the sampling state of a sequence."""
