"""The scheduler's limits, and the plan for one step: cache operations and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .kv_cells import Op
from .sequence import Sequence


@dataclass(frozen=True)
class SchedulerLimits:
    """Cache and step limits.

    slots: running and cached sequences together; running: running sequences; cells: KV cells in total; per_slot: cells
    per sequence; shared: slots share cells (unified layout); step_tokens: tokens per step; busy_prompt_tokens: prompt
    tokens per step while others generate; reserve: cells kept free for a new sequence's output; cached_cells:
    cells that cached sequences may hold; queue: waiting sequences; reuse: which prefixes may be reused; min_shared:
    shortest prefix worth copying; cuttable: whether a slot can be truncated; scored_tokens: prompt tokens per step
    with logits for log-probabilities.
    """

    slots: int
    running: int
    cells: int
    per_slot: int
    shared: bool
    step_tokens: int = 512
    busy_prompt_tokens: int = 128
    reserve: int = 64
    cached_cells: int = 1 << 30
    queue: int = 128
    reuse: Literal["any", "whole", "none"] = "any"
    min_shared: int = 16
    cuttable: bool = True
    scored_tokens: int = 32


@dataclass(slots=True)
class ScheduledTokens:
    """One sequence's part of a step: decode `count` tokens from `start`.

    `output` requests logits for the last token, `scored` for all tokens. Not frozen: an instance is created for every
    token, and creating a frozen one takes three times as long.
    """

    sequence: Sequence
    slot: int
    start: int
    count: int
    output: bool
    scored: bool = False

    @property
    def tokens(self) -> list[int]:
        """The tokens to decode."""
        return self.sequence.tokens[self.start : self.start + self.count]


@dataclass(frozen=True)
class FillerToken:
    """A dummy token in an idle slot, removed after the step.

    With separate cells, llama.cpp decodes only adjacent slots together: 3 and 4 tokens with a gap between them took
    85 ms, 8 adjacent ones 53 ms (SmolLM2-135M Q8_0, one thread).
    """

    slot: int
    start: int
    tokens: tuple[int, ...] = (0,)
    count: int = 1
    output: bool = False
    scored: bool = False


@dataclass
class StepPlan:
    """A step: first the cache operations, then the tokens. `preempted` counts preemptions since the last plan."""

    ops: list[Op] = field(default_factory=list)
    work: list[ScheduledTokens] = field(default_factory=list)
    fillers: list[FillerToken] = field(default_factory=list)
    preempted: int = 0

    @property
    def batch(self) -> list[ScheduledTokens | FillerToken]:
        """All tokens to decode, ordered by slot."""
        if len(self.work) == 1:
            return [*self.work]
        return sorted([*self.work, *self.fillers], key=lambda part: part.slot)

    @property
    def tokens(self) -> int:
        """The number of tokens to decode."""
        return sum(part.count for part in self.work) + len(self.fillers)
