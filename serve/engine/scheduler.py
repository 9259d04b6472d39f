"""Which tokens of which sequences the next step decodes. Pure Python: it knows no model, only counts and token ids.

Every step takes the next token of each generating sequence, then chunks of prompts being read, under one token budget.
Prompts begin from the longest prefix that some slot already holds. When cells run out, cached prefixes go first, the
least recently used before others; then the newest sequence is preempted and read again later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from .kv_cells import Cells, Op
from .prefix_tree import PrefixTree
from .sequence import Sequence
from .slots import Placing, groups

# a prefix that another sequence is just reading is waited for when it saves this many tokens
LEAST_AWAITED = 4
# steps that a gap between running slots may stay before cells are copied to close it
PATIENCE_STEPS = 4
# more slots than this are not bridged: a token costs about a tenth of what an own pass over the weights does
WIDEST_GAP = 4


class QueueFull(Exception):
    """As many sequences wait as may wait."""


@dataclass(frozen=True)
class Limits:
    """What one step and the cache may hold. Tokens and cells are counted one by one.

    slots: sequences that memory holds, running or cached; running: sequences at once; cells: all there are; per_slot:
    the most for one sequence; shared: slots share cells (unified layout); step_tokens: the budget; busy_prompt_tokens:
    prompt tokens in a step while others generate; reserve: cells kept for a new answer; cached_cells: the most that
    sequences which no longer run may keep; queue: the most that may wait; reuse: which prefixes may be taken over;
    least_shared: a prefix of fewer tokens is not worth a copy of its cells; cuttable: the end of a slot can be cut off.
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


@dataclass(slots=True)
class Work:
    """One sequence's part of a step: decode `count` tokens from `start`; `output`: the last one's logits are wanted.

    One is made for every token, and a frozen one takes three times as long to make.
    """

    sequence: Sequence
    slot: int
    start: int
    count: int
    output: bool

    @property
    def tokens(self) -> list[int]:
        """The tokens to decode."""
        return self.sequence.tokens[self.start : self.start + self.count]


@dataclass(frozen=True)
class Filler:
    """One meaningless token in a slot that has no work, which is cut off again after the step.

    Where slots have their own cells, llama.cpp decodes only neighbouring slots together: 3 and 4 tokens with a gap in
    between took 85 ms, 8 tokens side by side 53 ms (SmolLM2-135M Q8_0, one thread).
    """

    slot: int
    start: int
    tokens: tuple[int, ...] = (0,)
    count: int = 1
    output: bool = False


@dataclass
class Plan:
    """A step: first the cache operations, then the tokens."""

    ops: list[Op] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    fillers: list[Filler] = field(default_factory=list)

    @property
    def batch(self) -> list[Work | Filler]:
        """Everything to decode, in the order of the slots."""
        if len(self.work) == 1:
            return [*self.work]
        return sorted([*self.work, *self.fillers], key=lambda part: part.slot)

    @property
    def tokens(self) -> int:
        """How many tokens the step decodes."""
        return sum(part.count for part in self.work) + len(self.fillers)


class Scheduler:
    """Waiting and running sequences, and the cells they hold."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cells = Cells(limits.slots, limits.cells, limits.per_slot, limits.shared)
        self.tree = PrefixTree()
        self.waiting: list[Sequence] = []
        self.running: dict[int, Sequence] = {}
        self.cached: dict[int, list[int]] = {}  # slot -> tokens, least recently used first
        self.placing = Placing(self.cells, self.running, self.cached, self.tree)
        self.preemptions = 0
        self.reused_tokens = 0
        self._arrivals = 0
        self._gap_steps = 0
        self._most_running = limits.running

    def has_room(self, count: int) -> bool:
        """Whether `count` more sequences may run or wait."""
        return len(self.running) + len(self.waiting) + count <= self.limits.running + self.limits.queue

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises QueueFull; a prompt that can never fit must have been refused before."""
        assert 0 < len(sequence.prompt) <= min(sequence.context, self.limits.per_slot, self.limits.cells)
        if not self.has_room(1):
            raise QueueFull
        self._arrivals += 1
        sequence.number = self._arrivals
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take out a finished or cancelled sequence. Its cells stay as a prefix for others until they are needed."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        slot, sequence.slot = sequence.slot, None
        del self.running[slot]
        self._most_running = self.limits.running
        tokens = sequence.tokens[: sequence.held]
        if self.limits.reuse == "none" or len(tokens) < self.limits.least_shared or self._known(tokens, slot):
            self.placing.forget(slot)
            return
        self.cached[slot] = tokens
        self.tree.insert(slot, tokens)
        while self.cached and self.cells.only_held_by(set(self.cached)) > self.limits.cached_cells:
            self.placing.forget(next(iter(self.cached)))

    def plan(self) -> Plan:
        """Choose the next step. Cells for its tokens are already counted; call `commit` or `rollback` afterwards."""
        self._make_room()
        self._close_gap()
        plan = Plan()
        generating = [s for s in self.running.values() if not s.reading]
        for sequence in generating:
            self._take(plan, sequence, 1)
        if self.waiting or len(generating) < len(self.running):
            budget = self.limits.step_tokens - len(plan.work)
            self._read(plan, min(budget, self.limits.busy_prompt_tokens) if generating else budget)
        if len(plan.work) > 1:
            plan.fillers = self._fill(plan)
        plan.ops, self.cells.ops = self.cells.ops, []
        return plan

    def commit(self, plan: Plan) -> None:
        """The step was decoded: its tokens are held."""
        for work in plan.work:
            work.sequence.held += work.count
        for filler in plan.fillers:
            self.cells.ops.append(Op("cut" if filler.start else "free", filler.slot, filler.start))

    def rollback(self, plan: Plan) -> None:
        """The step was not decoded: its tokens have no cells."""
        for work in plan.work:
            self.cells.shrink(work.slot, work.count)

    def relieve(self) -> bool:
        """Free cells after a decode that found none: every cached prefix, then the newest sequence; False if alone."""
        if self.cached:
            for slot in list(self.cached):
                self.placing.forget(slot)
            return True
        if len(self.running) < 2:
            return False
        self.preempt(max(self.running.values(), key=lambda s: s.number))
        self._most_running = len(self.running)  # or the next step would be the same one again
        return True

    def preempt(self, sequence: Sequence) -> None:
        """Free a running sequence's cells and queue it again, before all that arrived after it."""
        assert sequence.slot is not None
        slot, sequence.slot, sequence.held = sequence.slot, None, 0
        del self.running[slot]
        self.placing.forget(slot)
        sequence.preemptions += 1
        self.preemptions += 1
        later = next((i for i, other in enumerate(self.waiting) if other.number > sequence.number), len(self.waiting))
        self.waiting.insert(later, sequence)

    def _make_room(self) -> None:
        """Where slots share cells: evict cached ones for what this step would take, preempt for what it must take."""
        if not self.limits.shared:
            return
        wanted = sum(min(sequence.pending, self.limits.step_tokens) for sequence in self.running.values())
        while self.cached and self.cells.free_cells() < wanted:
            self.placing.forget(next(iter(self.cached)))
        while len(self.running) > 1 and self.cells.free_cells() < len(self.running):
            self.preempt(max(self.running.values(), key=lambda s: s.number))

    def _close_gap(self) -> None:
        """Where slots have their own cells: when a gap between running slots stays, fill it from the end."""
        if self.limits.shared or self.waiting or len(self.running) < 2 or groups(set(self.running)) < 2:
            self._gap_steps = 0
            return
        self._gap_steps += 1
        if self._gap_steps >= PATIENCE_STEPS:
            self.placing.close_gap()

    def _fill(self, plan: Plan) -> list[Filler]:
        """Where slots have their own cells: bridge small gaps between the slots of this step."""
        if self.limits.shared or not self.limits.cuttable:
            return []
        fillers: list[Filler] = []
        slots = sorted(work.slot for work in plan.work)
        for left, right in pairwise(slots):
            gap = [Filler(slot, self.cells.held(slot)) for slot in range(left + 1, right)]
            if len(gap) <= WIDEST_GAP and all(filler.start < self.limits.per_slot for filler in gap):
                fillers += gap
        return fillers[: max(0, self.limits.step_tokens - plan.tokens)]

    def _take(self, plan: Plan, sequence: Sequence, budget: int) -> int:
        """Add up to `budget` of a running sequence's pending tokens to the plan; return how many."""
        assert sequence.slot is not None
        room = self.cells.room(sequence.slot)
        if self.limits.shared and sequence.reading:  # leave a cell for the next token of every other sequence
            room -= len(self.running) - 1
        count = min(sequence.pending, budget, room)
        if count <= 0:
            return 0
        self.cells.grow(sequence.slot, count)
        output = count == sequence.pending
        plan.work.append(Work(sequence, sequence.slot, sequence.held, count, output))
        return count

    def _read(self, plan: Plan, budget: int) -> None:
        """Go on with the prompts that are being read, the oldest first; then begin with others."""
        for sequence in sorted((s for s in self.running.values() if s.reading), key=lambda s: s.number):
            budget -= self._take(plan, sequence, budget)
        self._admit(plan, budget)

    def _admit(self, plan: Plan, budget: int) -> None:
        """Start waiting sequences, first come first served, while there is budget and room."""
        position = 0
        while position < len(self.waiting) and len(self.running) < self._most_running and budget > 0:
            sequence = self.waiting[position]
            source, shared, promised = self._best_prefix(sequence)
            if promised - shared >= LEAST_AWAITED and promised >= self.limits.least_shared:
                position += 1  # another sequence is just reading this prefix: wait for its cells, others may pass
                continue
            if not self._start(sequence, source, shared):
                return  # no room: nobody overtakes, so nobody starves
            del self.waiting[position]
            budget -= self._take(plan, sequence, budget)

    def _best_prefix(self, sequence: Sequence) -> tuple[int | None, int, int]:
        """Return the slot with the longest usable prefix, its length, and the longest that is being read right now."""
        if self.limits.reuse == "none":
            return None, 0, 0
        usable = len(sequence.tokens) - 1  # the last token is decoded anew, for its logits
        best, length, promised = None, 0, 0
        for slot, common in self.tree.matches(sequence.tokens[:usable]):
            reader = self.running.get(slot)
            ready = min(common, self.cells.held(slot) if reader is None else reader.held)
            if self.limits.reuse == "whole":
                if ready < self.cells.held(slot):  # this memory can only be taken over as a whole
                    continue
            elif reader is not None:
                promised = max(promised, min(common, len(reader.prompt)) if reader.reading else 0)
            if ready > length:
                best, length = slot, ready
        return (best, length, promised) if length >= self.limits.least_shared else (None, 0, promised)

    def _start(self, sequence: Sequence, source: int | None, shared: int) -> bool:
        """Give a waiting sequence a slot that begins with `shared` cells of `source`; False where there is no room."""
        if self.limits.shared:
            need = len(sequence.tokens) + min(sequence.most_left, self.limits.reserve)
            # what the others will still take: the rest of their prompts, and a cell for their next token
            others = sum(other.pending if other.reading else 1 for other in self.running.values())
            placed = self.placing.shared(source, shared, min(need, self.limits.cells - others) + others)
        else:
            placed = self.placing.apart(source, shared)
        if placed is None:
            return False
        slot, sequence.held = placed
        sequence.slot, sequence.cached = slot, max(sequence.cached, min(sequence.held, len(sequence.prompt)))
        self.reused_tokens += sequence.held
        self.running[slot] = sequence
        if self.limits.reuse != "none":
            self.tree.insert(slot, sequence.tokens)
        return True

    def _known(self, tokens: list[int], slot: int) -> bool:
        """Whether another slot already holds all of these tokens."""
        for other, common in self.tree.matches(tokens):
            if common < len(tokens):
                return False
            if other != slot and self.cells.held(other) >= len(tokens):
                return True
        return False
