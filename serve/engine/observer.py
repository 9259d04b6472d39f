"""The engine's metrics interface: one call per event, and a snapshot of the engine's state."""

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
    """A no-op base for classes that measure. Every method is called on the engine thread and must be fast."""

    def preempted(self, count: int) -> None:
        """`count` sequences were preempted to free cells."""

    def step(self, seconds: float) -> None:
        """A step was decoded and sampled in `seconds`."""

    def token(self, sequence: Sequence, seconds: float, first: bool) -> None:
        """A token was generated, `seconds` after the previous one (`first`: after the sequence arrived)."""

    def prefilled(self, sequence: Sequence) -> None:
        """The prompt of a sequence that generates no tokens was computed."""

    def finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """A sequence ended."""
