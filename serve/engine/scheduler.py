"""Decides which tokens of which sequences the next step decodes. Pure Python: works on counts and token ids only.

Each step includes the next token of every generating sequence, then prompt chunks, within one token budget. A prompt
starts from the longest prefix that a slot already holds. When cells run out, cached prefixes are evicted, least
recently used first; then the newest sequence is preempted and recomputed later.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from .sequence import Sequence
from .slots import Prefix, Slots
from .step import FillerToken, ScheduledTokens, SchedulerLimits, StepPlan

# wait for a prefix that another sequence is prefilling if that saves at least this many tokens
MIN_AWAITED_TOKENS = 4
# steps before a gap between running slots is closed by copying cells
GAP_PATIENCE_STEPS = 4
# wider gaps are not filled: a filler token costs about a tenth of a separate pass over the weights
MAX_FILLED_GAP = 4


class QueueFull(Exception):
    """The queue of waiting sequences is full."""


class Scheduler:
    """Queues waiting sequences and plans the next step of the running ones; `slots` tracks their placement."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits, self.slots = limits, Slots(limits)
        self.waiting: list[Sequence] = []
        self.reused_tokens = 0
        self._preempted = 0
        self._arrivals = 0
        self._gap_steps = 0
        self._most_running = limits.running

    @property
    def running(self) -> Mapping[int, Sequence]:
        """The running sequences by slot."""
        return self.slots.running

    def can_queue(self, count: int) -> bool:
        """Whether `count` more sequences may run or wait."""
        return len(self.running) + len(self.waiting) + count <= self.limits.running + self.limits.queue

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises QueueFull. The caller must have rejected prompts that can never fit."""
        assert 0 < len(sequence.prompt) <= min(sequence.stop.context, self.limits.per_slot, self.limits.cells)
        if not self.can_queue(1):
            raise QueueFull
        self._arrivals += 1
        sequence.number = self._arrivals
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, keep: bool = True) -> None:
        """Remove a finished or cancelled sequence. With `keep`, its cells stay cached as a prefix for others."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self._most_running = self.limits.running
        if keep:
            self.slots.retire(sequence)
        else:
            self.slots.vacate(sequence)

    def plan(self) -> StepPlan:
        """Plan the next step and reserve cells for its tokens; call `commit` or `rollback` afterwards."""
        self._reclaim_cells()
        self._close_gap()
        plan = StepPlan()
        generating = [s for s in self.running.values() if not s.prefilling]
        spare = self.limits.step_tokens - len(generating)  # for tokens that constraints have forced
        for sequence in generating:
            spare -= max(0, self._take(plan, sequence, min(sequence.pending, 1 + spare)) - 1)
        if self.waiting or len(generating) < len(self.running):
            budget = self.limits.step_tokens - plan.tokens
            self._prefill(plan, min(budget, self.limits.busy_prompt_tokens) if generating else budget)
        if len(plan.work) > 1:
            plan.fillers = self._fill(plan)
        plan.ops = self.slots.take_ops()
        plan.preempted, self._preempted = self._preempted, 0
        return plan

    def commit(self, plan: StepPlan) -> None:
        """Record that the step was decoded: its tokens now have cells."""
        for work in plan.work:
            work.sequence.held += work.count
        if plan.fillers:
            self.slots.drop_fillers(plan.fillers)

    def rollback(self, plan: StepPlan) -> None:
        """Record that the step was not decoded, and release the cells reserved for it."""
        for work in plan.work:
            self.slots.shrink(work.slot, work.count)

    def retry(self, work: ScheduledTokens) -> StepPlan:
        """Return one part of a rolled-back step as a separate step, with its cells reserved again."""
        self.slots.grow(work.slot, work.count)
        return StepPlan(work=[work])

    def reclaim(self) -> bool:
        """Free cells after a decode ran out: all cached prefixes, or else the newest sequence. False if neither."""
        if self.slots.cached:
            self.slots.evict_all()
            return True
        if len(self.running) < 2:
            return False
        self.preempt(max(self.running.values(), key=lambda s: s.number))
        self._most_running = len(self.running)  # otherwise the next step would be the same again
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's cells and queue it again, ahead of all later arrivals."""
        self.slots.vacate(sequence)
        sequence.held = 0
        sequence.preemptions += 1
        self._preempted += 1
        later = next((i for i, other in enumerate(self.waiting) if other.number > sequence.number), len(self.waiting))
        self.waiting.insert(later, sequence)

    def _reclaim_cells(self) -> None:
        """With shared cells, evict cached prefixes for cells this step could use, and preempt for cells it needs."""
        if not self.limits.shared:
            return
        wanted = sum(min(sequence.pending, self.limits.step_tokens) for sequence in self.running.values())
        while self.slots.cached and self.slots.free_cells < wanted:
            self.slots.evict_oldest()
        while len(self.running) > 1 and self.slots.free_cells < len(self.running):
            self.preempt(max(self.running.values(), key=lambda s: s.number))

    def _close_gap(self) -> None:
        """With separate cells, move the last running sequence into a persistent gap between slots."""
        if self.limits.shared or self.waiting or len(self.running) < 2 or self.slots.groups < 2:
            self._gap_steps = 0
            return
        self._gap_steps += 1
        if self._gap_steps >= GAP_PATIENCE_STEPS:
            self.slots.close_gap()

    def _fill(self, plan: StepPlan) -> list[FillerToken]:
        """With separate cells, fill small gaps between the slots of this step with filler tokens."""
        if self.limits.shared or not self.limits.cuttable:
            return []
        fillers: list[FillerToken] = []
        slots = sorted(work.slot for work in plan.work)
        for left, right in pairwise(slots):
            gap = [FillerToken(slot, self.slots.held(slot)) for slot in range(left + 1, right)]
            if len(gap) <= MAX_FILLED_GAP and all(filler.start < self.limits.per_slot for filler in gap):
                fillers += gap
        return fillers[: max(0, self.limits.step_tokens - plan.tokens)]

    def _take(self, plan: StepPlan, sequence: Sequence, budget: int) -> int:
        """Add up to `budget` pending tokens of a running sequence to the plan; return how many."""
        assert sequence.slot is not None
        available = self.slots.available(sequence.slot)
        if self.limits.shared and sequence.pending > 1:  # leave a cell for the next token of every other sequence
            available -= len(self.running) - 1
        scored = sequence.unscored > 0
        if scored:
            available = min(available, self._scores_left(plan))
        count = min(sequence.pending, budget, available)
        if count <= 0:
            return 0
        self.slots.grow(sequence.slot, count)
        output = count == sequence.pending
        plan.work.append(ScheduledTokens(sequence, sequence.slot, sequence.held, count, output, scored))
        return count

    def _scores_left(self, plan: StepPlan) -> int:
        """The number of prompt tokens in this step that may still request logits for log-probabilities."""
        return self.limits.scored_tokens - sum(work.count for work in plan.work if work.scored)

    def _prefill(self, plan: StepPlan, budget: int) -> None:
        """Continue the prompts being prefilled, oldest first, then start waiting ones."""
        for sequence in sorted((s for s in self.running.values() if s.prefilling), key=lambda s: s.number):
            budget -= self._take(plan, sequence, budget)
        self._admit(plan, budget)

    def _admit(self, plan: StepPlan, budget: int) -> None:
        """Start waiting sequences, first come, first served, while budget and cells last."""
        position = 0
        while position < len(self.waiting) and len(self.running) < self._most_running and budget > 0:
            sequence = self.waiting[position]
            if sequence.unscored and not self._scores_left(plan):
                position += 1  # it would occupy a slot without making progress
                continue
            prefix = self.slots.best_prefix(sequence.reusable)
            if prefix.promised - prefix.length >= MIN_AWAITED_TOKENS and prefix.promised >= self.limits.min_shared:
                position += 1  # another sequence is prefilling this prefix: wait for its cells, let later ones go first
                continue
            if not self._start(sequence, prefix):
                return  # later sequences must not start first, or this one would starve
            del self.waiting[position]
            budget -= self._take(plan, sequence, budget)

    def _start(self, sequence: Sequence, prefix: Prefix) -> bool:
        """Assign a waiting sequence a slot that starts with `prefix`; return False if none is available."""
        need = 0
        if self.limits.shared:
            wanted = len(sequence.tokens) + min(sequence.tokens_left, self.limits.reserve)
            # cells the others still need: the rest of their prompts, or one for their next token
            others = sum(other.pending if other.prefilling else 1 for other in self.running.values())
            need = min(wanted, self.limits.cells - others) + others
        if not self.slots.place(sequence, prefix, need):
            return False
        sequence.cached = max(sequence.cached, min(sequence.held, len(sequence.prompt)))
        self.reused_tokens += sequence.held
        return True
