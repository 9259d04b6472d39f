"""The slot table: which sequence runs in which slot, which prefixes idle slots cache, and the cells of all slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from types import MappingProxyType
from typing import NamedTuple

from .kv_cells import KVCells, Op
from .prefix_tree import PrefixTree
from .sequence import Sequence
from .step import FillerToken, SchedulerLimits

# a cached sequence with at most this many tokens after the shared prefix is taken over instead of copied
SMALL_TAIL_TOKENS = 32


class Prefix(NamedTuple):
    """The slot with the longest usable prefix, that prefix's length, and the longest length being prefilled."""

    source: int | None
    length: int
    promised: int


class Slots:
    """Owns the slot table. `running` and `cached` (slot -> tokens, least recently used first) are views.

    Cache operations for the backend are collected, in order, until `take_ops`.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._cells = KVCells(limits.slots, limits.cells, limits.per_slot, limits.shared)
        self._tree = PrefixTree()
        self._running: dict[int, Sequence] = {}
        self._cached: dict[int, list[int]] = {}
        self.running: Mapping[int, Sequence] = MappingProxyType(self._running)
        self.cached: Mapping[int, list[int]] = MappingProxyType(self._cached)

    @property
    def free_cells(self) -> int:
        """The number of free cells."""
        return self._cells.free_cells()

    @property
    def used_cells(self) -> int:
        """The number of cells held by at least one slot."""
        return self._cells.used

    @property
    def running_cells(self) -> int:
        """The number of cells held by running sequences; shared cells count once per sequence. Thread-safe."""
        return sum(self._cells.held(slot) for slot in list(self._running))

    @property
    def groups(self) -> int:
        """The number of runs of adjacent slots occupied by running sequences."""
        return groups(self._running.keys())

    def held(self, slot: int) -> int:
        """The number of cells in the slot."""
        return self._cells.held(slot)

    def available(self, slot: int) -> int:
        """The number of cells that can be added to the slot now."""
        return self._cells.available(slot)

    def take_ops(self) -> list[Op]:
        """Return the cache operations since the last call."""
        ops, self._cells.ops = self._cells.ops, []
        return ops

    def grow(self, slot: int, count: int) -> None:
        """Reserve `count` new cells for a slot with enough available cells."""
        self._cells.grow(slot, count)

    def shrink(self, slot: int, count: int) -> None:
        """Remove cells that a failed decode never filled."""
        self._cells.shrink(slot, count)

    def drop_fillers(self, fillers: Iterable[FillerToken]) -> None:
        """Remove the filler tokens of a step; their cells were never counted."""
        self._cells.ops += [Op("cut" if filler.start else "free", filler.slot, filler.start) for filler in fillers]

    def best_prefix(self, tokens: Many[int]) -> Prefix:
        """Find the best prefix for `tokens`. The last token is excluded: it must be decoded for its logits."""
        if self._limits.reuse == "none":
            return Prefix(None, 0, 0)
        best, length, promised = None, 0, 0
        for slot, common in self._tree.matches(tokens[:-1]):
            reader = self._running.get(slot)
            ready = min(common, self._cells.held(slot) if reader is None else reader.held)
            if self._limits.reuse == "whole":
                if ready < self._cells.held(slot):  # a recurrent state can only be reused as a whole
                    continue
            elif reader is not None and reader.prefilling and not reader.unscored:
                # a prompt with log-probabilities is prefilled in small parts: not worth waiting for
                promised = max(promised, min(common, len(reader.prompt)))
            if ready > length:
                best, length = slot, ready
        return Prefix(best, length, promised) if length >= self._limits.min_shared else Prefix(None, 0, promised)

    def place(self, sequence: Sequence, prefix: Prefix, need: int) -> bool:
        """Assign a sequence a slot that starts with the prefix's cells; return False if none is available.

        With shared cells, `need` is how many cells must be available to the sequence, including the prefix.
        """
        if self._limits.shared:
            found = self._find_shared(prefix.source, prefix.length, need)
        else:
            found = self._find_separate(prefix.source, prefix.length)
        if found is None:
            return False
        slot, sequence.held = found
        sequence.slot = slot
        self._running[slot] = sequence
        if self._limits.reuse != "none":
            self._tree.insert(slot, sequence.tokens)
        return True

    def retire(self, sequence: Sequence) -> None:
        """Remove a sequence from its slot, but keep its cells cached as a prefix for others until they are needed."""
        slot = self._take_out(sequence)
        tokens = sequence.tokens[: sequence.held]
        if self._limits.reuse == "none" or len(tokens) < self._limits.min_shared or self._known(tokens, slot):
            self._empty_slot(slot)
            return
        self._cached[slot] = tokens
        self._tree.insert(slot, tokens)
        while self._cached and self._cells.only_held_by(set(self._cached)) > self._limits.cached_cells:
            self.evict_oldest()

    def vacate(self, sequence: Sequence) -> None:
        """Remove a sequence from its slot and free its cells."""
        self._empty_slot(self._take_out(sequence))

    def evict_oldest(self) -> None:
        """Free the least recently used cached slot."""
        self._empty_slot(next(iter(self._cached)))

    def evict_all(self) -> None:
        """Free every cached slot."""
        for slot in list(self._cached):
            self._empty_slot(slot)

    def close_gap(self) -> None:
        """Move the last running sequence into a gap between the others, if there is one."""
        slots = sorted(self._running)
        if self.groups < 2:
            return
        gap = next(slot for slot in range(slots[0], slots[-1]) if slot not in self._running)
        if gap in self._cached:
            self._move_away(gap, None)
        last = slots[-1]
        sequence = self._running.pop(last)
        if self._cells.held(last):
            self._cells.fork(last, gap, self._cells.held(last))
        self._cells.free(last)
        self._running[gap], sequence.slot = sequence, gap
        if self._tree.remove(last):
            self._tree.insert(gap, sequence.tokens)

    def _find_shared(self, source: int | None, length: int, need: int) -> tuple[int, int] | None:
        """Find a slot in the shared layout: return (slot, cells it starts with), or None if none is available."""
        self._touch(source)
        while self.free_cells < need - length or not self._free_slots():
            oldest = next((slot for slot in self._cached if slot != source), None)
            if oldest is None:
                break
            self._empty_slot(oldest)
        tight = self.free_cells < need - length or not self._free_slots()
        if source is not None and source in self._cached:
            tail = max(0, self._cells.only_held_by({source}) - length)
            if (tight or tail <= SMALL_TAIL_TOKENS) and self.free_cells + tail >= need - length:
                return self._take_over(source, length)
            if tight:  # even that does not fit next to the others: drop the prefix and prefill the whole prompt
                self._empty_slot(source)
                source, length = None, 0
        if self.free_cells < need - length or not self._free_slots():
            return None
        slot = min(self._free_slots())
        if source is not None:
            self._cells.fork(source, slot, length)
        return slot, length

    def _find_separate(self, source: int | None, length: int) -> tuple[int, int] | None:
        """Find a slot in the separate layout: return (slot, cells it starts with), or None if all slots are running.

        llama.cpp decodes neighbouring slots together and others one after another, so running slots are kept adjacent.
        Cached cells in the way are moved to an empty slot, or dropped if there is none.
        """
        choices = [slot for slot in range(self._limits.slots) if slot not in self._running]
        if not choices:
            return None
        self._touch(source)
        oldest = {slot: age for age, slot in enumerate(self._cached)}
        small = source is not None and len(self._cached.get(source, ())) - length <= SMALL_TAIL_TOKENS

        def rank(slot: int) -> tuple[int, int, int]:
            kind = 0 if slot == source and small else 2 if slot in self._cached else 1
            return groups({*self._running, slot}), kind, oldest.get(slot, 0)

        slot = min(choices, key=rank)
        if slot == source:
            return self._take_over(slot, length)
        if slot in self._cached:
            self._move_away(slot, source)
        if source is not None:
            self._cells.fork(source, slot, length)
            if source in self._cached and small:  # the new sequence contains nearly all of its tokens
                self._empty_slot(source)
        return slot, length

    def _take_out(self, sequence: Sequence) -> int:
        slot, sequence.slot = sequence.slot, None
        assert slot is not None
        del self._running[slot]
        return slot

    def _empty_slot(self, slot: int) -> None:
        """Free the cells of a slot that is not running."""
        self._cached.pop(slot, None)
        self._tree.remove(slot)
        self._cells.free(slot)

    def _take_over(self, slot: int, length: int) -> tuple[int, int]:
        del self._cached[slot]
        self._tree.remove(slot)
        self._cells.cut(slot, length)
        return slot, length

    def _move_away(self, slot: int, source: int | None) -> None:
        """Free `slot`; move its cached cells to an empty slot or replace the least recently used ones."""
        empty = [other for other in self._free_slots() if other != slot]
        if not empty:
            oldest = next(iter(self._cached))
            if oldest in (slot, source):
                self._empty_slot(slot)
                return
            self._empty_slot(oldest)
            empty = [oldest]
        target = empty[-1]
        self._cells.fork(slot, target, self._cells.held(slot))
        # keep its place in the LRU order
        order = [(target if key == slot else key, tokens) for key, tokens in self._cached.items()]
        self._cached.clear()
        self._cached.update(order)
        self._tree.insert(target, self._cached[target])
        self._empty_slot(slot)

    def _touch(self, slot: int | None) -> None:
        """Mark a cached slot as most recently used."""
        if slot is not None and slot in self._cached:
            self._cached[slot] = self._cached.pop(slot)

    def _free_slots(self) -> list[int]:
        return [s for s in range(self._limits.slots) if s not in self._running and s not in self._cached]

    def _known(self, tokens: list[int], slot: int) -> bool:
        """Whether another slot already holds all of these tokens."""
        for other, common in self._tree.matches(tokens):
            if common < len(tokens):
                return False
            if other != slot and self._cells.held(other) >= len(tokens):
                return True
        return False


def groups(slots: Iterable[int]) -> int:
    """Return the number of runs of adjacent slots."""
    every = set(slots)
    return sum(slot - 1 not in every for slot in every)
