"""What the scheduler may plan, and what it planned: limits, and one step's cache operations and tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .kv_cells import Op
from .sequence import Sequence


@dataclass(frozen=True)
class SchedulerLimits:
    """What one step and the cache may hold. Tokens and cells are counted one by one.

    slots: sequences that memory holds, running or cached; running: sequences at once; cells: all there are; per_slot:
    the most for one sequence; shared: slots share cells (unified layout); step_tokens: the budget; busy_prompt_tokens:
    prompt tokens in a step while others generate; reserve: cells kept for a new answer; cached_cells: the most that
    sequences which no longer run may keep; queue: the most that may wait; reuse: which prefixes may be taken over;
    least_shared: a prefix of fewer tokens is not worth a copy of its cells; cuttable: the end of a slot can be cut off;
    scored_tokens: the most tokens of a step whose logits are wanted for the log-probabilities of prompts.
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
    least_shared: int = 16
    cuttable: bool = True
    scored_tokens: int = 32


@dataclass(slots=True)
class ScheduledTokens:
    """One sequence's part of a step: decode `count` tokens from `start`; `output`: the last one's logits are wanted,
    `scored`: those of all of them.

    One is made for every token, and a frozen one takes three times as long to make.
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
    """One meaningless token in a slot that has no work, which is cut off again after the step.

    Where slots have their own cells, llama.cpp decodes only neighbouring slots together: 3 and 4 tokens with a gap in
    between took 85 ms, 8 tokens side by side 53 ms (SmolLM2-135M Q8_0, one thread).
    """

    slot: int
    start: int
    tokens: tuple[int, ...] = (0,)
    count: int = 1
    output: bool = False
    scored: bool = False


@dataclass
class StepPlan:
    """A step: first the cache operations, then the tokens. `preempted`: sequences set back since the last plan."""

    ops: list[Op] = field(default_factory=list)
    work: list[ScheduledTokens] = field(default_factory=list)
    fillers: list[FillerToken] = field(default_factory=list)
    preempted: int = 0

    @property
    def batch(self) -> list[ScheduledTokens | FillerToken]:
        """Everything to decode, in the order of the slots."""
        if len(self.work) == 1:
            return [*self.work]
        return sorted([*self.work, *self.fillers], key=lambda part: part.slot)

    @property
    def tokens(self) -> int:
        """How many tokens the step decodes."""
        return sum(part.count for part in self.work) + len(self.fillers)
