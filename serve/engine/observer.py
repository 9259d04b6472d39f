"""What the engine reports for metrics: a call per event, and a snapshot of its state."""

from __future__ import annotations

from dataclasses import dataclass

from .events import FinishReason
from .sequence import Sequence


@dataclass(frozen=True)
class Snapshot:
    """The engine's state: running and waiting sequences; cells in total, in use, and held by running sequences."""

    running: int
    waiting: int
    cells: int
    used_cells: int
    running_cells: int


class Observer:
    """Does nothing; subclasses measure. Every method is called in the engine's thread and must be fast."""

    def preempted(self, count: int) -> None:
        """`count` sequences were preempted to free cells."""

    def step(self, seconds: float) -> None:
        """A step was decoded and sampled in `seconds`."""

    def token(self, sequence: Sequence, seconds: float, first: bool) -> None:
        """A token was generated, `seconds` after the previous one (`first`: after the sequence arrived)."""

    def prefilled(self, sequence: Sequence) -> None:
        """The prompt of a sequence that generates nothing was computed."""

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """A sequence ended."""
