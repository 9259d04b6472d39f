"""What the engine needs of a model: cache operations, a batch, the next token. serve.llama has the one on llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Protocol

from burnish.errors import UserError

from ..decoding.constraints import Mask
from .events import TokenLogprob
from .kv_cells import Op
from .sequence import Sequence
from .step import FillerToken, ScheduledTokens

DONE = 0
NO_CELLS = 1


@dataclass(slots=True)
class Output:
    """Where a sequence's next token is drawn: after token number `index` of the batch.

    Only tokens that are True in `allowed` may be drawn; None allows all.
    """

    sequence: Sequence
    index: int
    allowed: Mask | None = None


@dataclass(slots=True)
class Sampled:
    """A drawn token, and its log-probabilities where they were asked for."""

    token: int
    logprob: TokenLogprob | None = None


class Backend(Protocol):
    """Only the engine's thread calls these."""

    def apply(self, ops: Many[Op]) -> None:
        """Change the cache; a cut that this memory can't do raises."""

    def decode(self, batch: Many[ScheduledTokens | FillerToken]) -> int:
        """Decode one batch, ordered by slot: DONE, NO_CELLS (nothing changed), or a negative code for a fault."""

    def singly(self, rows: int) -> bool:
        """Whether the next tokens of so many sequences are decoded faster one by one than in one batch."""

    def sample(self, outputs: Many[Output]) -> list[Sampled | UserError]:
        """Draw the next token of each; for one whose logits or mask allow none its error, which ends it alone."""

    def score(self, tokens: Many[int], index: int, top: int) -> list[TokenLogprob]:
        """Return the log-probabilities of `tokens`: of the first after token number `index` of the batch, of the next
        after the one that follows it, and so on; with the `top` likeliest each. Raises UserError for this sequence."""

    def piece(self, token: int) -> bytes:
        """Return a token's bytes; b"" for control tokens."""

    def release(self, sequence: Sequence) -> None:
        """Free what sampling holds for a sequence."""
