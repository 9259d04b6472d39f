"""What the engine reports for metrics: one call for each thing that happened, and its state at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from .events import FinishReason
from .sequence import Sequence


@dataclass(frozen=True)
class Snapshot:
    """The engine's state: sequences that run and wait; cells in all, with content, and of running sequences."""

    running: int
    waiting: int
    cells: int
    used_cells: int
    running_cells: int


class Observer:
    """Does nothing; a subclass measures. Every method is called in the engine's thread and must be quick."""

    def preempted(self, count: int) -> None:
        """So many sequences were set back to free cells."""

    def step(self, seconds: float) -> None:
        """A batch was decoded and sampled in so many seconds."""

    def token(self, sequence: Sequence, seconds: float, first: bool) -> None:
        """A token was generated, so many seconds after the one before (`first`: after the sequence's arrival)."""

    def read(self, sequence: Sequence) -> None:
        """A prompt was read for which nothing is generated."""

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """A sequence ended."""
