"""The cost of evaluating the held-out rows, once at the end and every eval_steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..settings import TrainSettings
from .machine import Machine
from .memory import EFFICIENCY, Plan, duration
from .model_shape import Shape


@dataclass(frozen=True)
class Evaluations:
    """The number of held-out evaluations, and their total tokens and seconds (None: unknown)."""

    times: int
    tokens: int
    seconds: float | None

    def line(self) -> str:
        """Return the plan's line about evaluations."""
        often = "once, at the end" if self.times == 1 else f"{self.times} times"
        time = f", about {duration(self.seconds)} in total" if self.seconds else ""
        return f"plan: the held-out rows are evaluated {often}: {self.tokens:,} tokens{time}"


def evaluations(
    settings: TrainSettings, shape: Shape, heldout: Sequence[int], machine: Machine, planned: Plan
) -> Evaluations:
    """Return the cost of a planned run's evaluations; `heldout` contains the row lengths in tokens."""
    times = 1 + (planned.steps // settings.train.eval_steps if settings.train.eval_steps else 0)
    tokens = times * sum(heldout)
    if machine.matrix_flops is None:
        return Evaluations(times, tokens, None)
    flops = tokens * shape.flops_per_token(False) / 2  # forward only
    return Evaluations(times, tokens, flops / (machine.matrix_flops * EFFICIENCY[machine.device]))
