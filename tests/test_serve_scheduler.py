"""The scheduler under thousands of random loads: budgets, cells, fairness and correct prefixes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decoding.stop_conditions import StopConditions
from serve.engine.events import TokenLogprob
from serve.engine.kv_cells import Op
from serve.engine.prefix_tree import PrefixTree, common_prefix
from serve.engine.scheduler import Scheduler
from serve.engine.sequence import SamplingParams, Sequence
from serve.engine.step import ScheduledTokens, SchedulerLimits, StepPlan


def sequence(prompt: list[int], max_tokens: int, context: int, scored: bool = False) -> Sequence:
    stop, params = StopConditions(max_tokens, context), SamplingParams(prompt_logprobs=0 if scored else None)
    return Sequence("s", tuple(prompt), params, stop, sink=lambda event: None)


def keep_scores(plan: StepPlan) -> None:
    """Store the log-probabilities from the logits of a step, as the engine does; none may be missing."""
    for work in plan.work:
        sequence = work.sequence
        assert work.scored or not sequence.unscored
        if work.scored:
            assert work.start <= len(sequence.scores), "the logits before this token were never computed"
            following = sequence.prompt[len(sequence.scores) + 1 : work.start + work.count + 1]
            sequence.scores += [TokenLogprob(token, b"", -1.0) for token in following]
        if work.output:
            assert not sequence.unscored


@dataclass
class Memory:
    """A model of the real cache: the tokens of each slot. It rejects what llama.cpp would reject."""

    limits: SchedulerLimits
    slots: dict[int, list[int]] = field(default_factory=dict)

    def apply(self, op: Op) -> None:
        if op.kind == "fork":
            assert not self.slots.get(op.slot), "the target of a fork must be empty"
            assert len(self.slots[op.source]) >= op.length
            self.slots[op.slot] = self.slots[op.source][: op.length]
        elif op.kind == "cut":
            assert self.limits.reuse != "whole", "this state can't be truncated"
            del self.slots[op.slot][op.length :]
        else:
            self.slots[op.slot] = []

    def decode(self, plan: StepPlan) -> None:
        for op in plan.ops:
            self.apply(op)
        for work in plan.batch:
            held = self.slots.setdefault(work.slot, [])
            assert len(held) == work.start, "positions must be consecutive"
            if isinstance(work, ScheduledTokens):
                assert held == work.sequence.tokens[: work.start], "the cells must contain exactly this prefix"
            else:
                assert self.limits.cuttable
            held += work.tokens
            assert len(held) <= self.limits.per_slot


def check(scheduler: Scheduler, memory: Memory, plan: StepPlan) -> None:
    limits, slots = scheduler.limits, scheduler.slots
    assert plan.tokens <= limits.step_tokens
    assert sum(work.count for work in plan.work if work.scored) <= limits.scored_tokens
    assert len(scheduler.running) <= limits.running
    assert len(plan.work) == len({work.slot for work in plan.work})
    generating = [w for w in plan.work if w.start >= len(w.sequence.prompt)]
    if any(w.count == 1 and w.output and w.start >= len(w.sequence.prompt) for w in generating):
        reading = sum(w.count for w in plan.work if w.start < len(w.sequence.prompt))
        assert reading <= limits.busy_prompt_tokens
    for slot in range(limits.slots):
        filled = any(filler.slot == slot for filler in plan.fillers)
        assert slots.held(slot) == len(memory.slots.get(slot, [])) - filled
        assert slot in slots.running or slot in slots.cached or not slots.held(slot)
    assert not set(slots.running) & set(slots.cached)
    assert len(slots._tree) == (0 if limits.reuse == "none" else len(slots.running) + len(slots.cached))
    bridged = sum(filler.slot in slots.running for filler in plan.fillers)
    assert slots.running_cells == sum(len(memory.slots.get(slot, [])) for slot in slots.running) - bridged
    if limits.shared:
        spans = {id(s): s for held in slots._cells.spans for s in held}
        assert sum(s.length for s in spans.values()) == slots.used_cells <= limits.cells


@st.composite
def loads(draw: st.DrawFn) -> tuple[SchedulerLimits, int]:
    shared = draw(st.booleans())
    running = draw(st.integers(1, 6))
    slots = running + draw(st.integers(1, 4))
    per_slot = draw(st.integers(24, 120))
    total = draw(st.integers(per_slot, per_slot * slots)) if shared else per_slot * slots
    limits = SchedulerLimits(
        slots=slots,
        running=running,
        cells=total,
        per_slot=per_slot,
        shared=shared,
        step_tokens=draw(st.integers(running + 1, 64)),
        busy_prompt_tokens=draw(st.integers(1, 32)),
        reserve=draw(st.integers(1, 32)),
        cached_cells=draw(st.integers(0, total)),
        queue=1000,
        reuse=(reuse := draw(st.sampled_from(["any", "any", "whole", "none"]))),
        cuttable=reuse != "whole",
        scored_tokens=draw(st.integers(1, 16)),
    )
    return limits, draw(st.integers(0, 1 << 30))


@settings(max_examples=250, deadline=None)
@given(loads())
def test_all_sequences_finish_and_cells_hold_the_correct_tokens(load: tuple[SchedulerLimits, int]) -> None:
    limits, seed = load
    rng = random.Random(seed)
    scheduler, memory = Scheduler(limits), Memory(limits)
    openings = [[rng.randrange(9) for _ in range(limits.per_slot)] for _ in range(3)]
    left, alive, steps = rng.randrange(1, 30), set[Sequence](), 0
    while left or alive:
        steps += 1
        assert steps < 20_000, "a sequence starves"
        while left and rng.random() < 0.5:
            left -= 1
            cut = rng.randrange(1, limits.per_slot)
            prompt = rng.choice(openings)[:cut] + [rng.randrange(9) for _ in range(rng.randrange(4))]
            prompt = prompt[: limits.per_slot - 1]
            new = sequence(prompt, rng.randrange(1, 40), limits.per_slot, scored=rng.random() < 0.3)
            scheduler.add(new)
            alive.add(new)
        plan = scheduler.plan()
        if plan.work and rng.random() < 0.05:  # simulate a decode that found no cells
            for op in plan.ops:
                memory.apply(op)
            scheduler.rollback(plan)
            scheduler.reclaim()
            continue
        memory.decode(plan)
        scheduler.commit(plan)
        check(scheduler, memory, plan)
        keep_scores(plan)
        for work in plan.work:
            if work.output:
                work.sequence.tokens.append(rng.randrange(9))
                if work.sequence.tokens_left <= 0:
                    scheduler.remove(work.sequence)
                    alive.discard(work.sequence)
        for other in [s for s in alive if rng.random() < 0.01]:
            scheduler.remove(other)
            alive.discard(other)
    assert not scheduler.running and not scheduler.waiting
    scheduler.slots.evict_all()
    assert scheduler.slots.used_cells == 0 and len(scheduler.slots._tree) == 0


@given(st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 2), max_size=12)), max_size=40), st.data())
def test_prefix_tree_lookup_equals_a_full_search(entries: list[tuple[int, list[int]]], data: st.DataObject) -> None:
    tree, plain = PrefixTree(), dict[int, list[int]]()
    for slot, tokens in entries:
        if tokens and tokens[0] == 2:
            tree.remove(slot)
            plain.pop(slot, None)
        else:
            tree.insert(slot, tokens)
            plain[slot] = tokens
    wanted = data.draw(st.lists(st.integers(0, 2), max_size=12))
    expected = {slot: common_prefix(tokens, wanted) for slot, tokens in plain.items()}
    found = list(tree.matches(wanted))
    assert dict(found) == {slot: length for slot, length in expected.items() if length}
    assert [length for _, length in found] == sorted((length for _, length in found), reverse=True)


def run(scheduler: Scheduler, memory: Memory) -> StepPlan:
    plan = scheduler.plan()
    memory.decode(plan)
    scheduler.commit(plan)
    return plan


def limits(**changes: object) -> SchedulerLimits:
    values: dict[str, object] = {"slots": 5, "running": 4, "cells": 2000, "per_slot": 400, "shared": False}
    return SchedulerLimits(**{**values, "step_tokens": 256, "busy_prompt_tokens": 64, **changes})  # type: ignore[arg-type]


def test_identical_prompts_are_prefilled_once() -> None:
    for shared in (True, False):
        scheduler = Scheduler(limits(shared=shared))
        memory = Memory(scheduler.limits)
        prompt = list(range(200))
        for _ in range(4):
            scheduler.add(sequence(prompt, 8, 400))
        tokens = run(scheduler, memory).tokens + run(scheduler, memory).tokens
        assert tokens == 200 + 3
        assert scheduler.reused_tokens == 3 * 199


def test_shared_prefix_is_prefilled_once() -> None:
    scheduler = Scheduler(limits(step_tokens=50))
    memory = Memory(scheduler.limits)
    system = list(range(100))
    for i in range(3):
        scheduler.add(sequence([*system, 1000 + i, 1, 2, 3], 8, 400))
    decoded = sum(run(scheduler, memory).tokens for _ in range(4))
    assert decoded <= 104 + 2 * 5 + 3 and len(scheduler.running) == 3


def test_prompt_logprobs_are_not_awaited_as_a_shared_prefix() -> None:
    scheduler = Scheduler(limits(scored_tokens=4))
    memory = Memory(scheduler.limits)
    prompt = list(range(200))
    scheduler.add(sequence(prompt, 8, 400, scored=True))
    run(scheduler, memory)
    plain = sequence(prompt, 8, 400)
    scheduler.add(plain)
    run(scheduler, memory)
    assert plain.held == len(prompt)


def test_long_prompt_does_not_stall_running_streams() -> None:
    scheduler = Scheduler(limits())
    memory = Memory(scheduler.limits)
    first = sequence(list(range(10)), 100, 400)
    scheduler.add(first)
    run(scheduler, memory)
    first.tokens.append(7)
    scheduler.add(sequence(list(range(500, 850)), 8, 400))
    for _ in range(5):
        plan = run(scheduler, memory)
        assert [w.count for w in plan.work if w.sequence is first] == [1] and plan.tokens <= 65
        first.tokens.append(7)


def test_newest_sequence_is_preempted_and_resumes_before_later_ones() -> None:
    scheduler = Scheduler(limits(shared=True, cells=60, per_slot=60, reserve=1, slots=4, running=3))
    memory = Memory(scheduler.limits)
    old, new, late = (sequence([i] * 20 + [i], 30, 60) for i in (1, 2, 3))
    for one in (old, new, late):
        scheduler.add(one)
    for _ in range(30):
        for work in run(scheduler, memory).work:
            if work.output:
                work.sequence.tokens.append(9)
    assert new.preemptions and not old.preemptions and scheduler.waiting[0] is new
    scheduler.remove(old)
    run(scheduler, memory)
    assert new in scheduler.running.values() and new.generated > 0


def test_running_slots_stay_adjacent() -> None:
    scheduler = Scheduler(limits(slots=9, running=8, cells=3600))
    memory = Memory(scheduler.limits)
    every = [sequence([i, i + 1, i + 2], 300, 400) for i in range(8)]
    for one in every:
        scheduler.add(one)
    for step in range(12):
        for work in run(scheduler, memory).work:
            if work.output:
                work.sequence.tokens.append(9)
        if step == 2:
            for one in every[1:6:2]:
                scheduler.remove(one)
    slots = sorted(scheduler.running)
    assert slots == list(range(slots[0], slots[0] + 5))
