"""Which slot a sequence gets, whose cells it begins with, and what is evicted or moved for it."""

from __future__ import annotations

from dataclasses import dataclass

from .kv_cells import Cells
from .prefix_tree import PrefixTree
from .sequence import Sequence

# a cached sequence that goes on for no more than this beyond the shared prefix is taken over, not copied
SMALL_TAIL_TOKENS = 32


@dataclass
class Placing:
    """Works on the scheduler's own tables: the cells, the running and cached slots, the prefix tree."""

    cells: Cells
    running: dict[int, Sequence]
    cached: dict[int, list[int]]
    tree: PrefixTree

    def forget(self, slot: int) -> None:
        """Empty a slot that no longer runs."""
        self.cached.pop(slot, None)
        self.tree.remove(slot)
        self.cells.free(slot)

    def shared(self, source: int | None, length: int, need: int) -> tuple[int, int] | None:
        """Find a slot where slots share cells: return (slot, cells it begins with), or None where there is no room.

        `need` counts every cell that the sequence should find, those of the shared prefix included.
        """
        self._touch(source)
        while self.cells.free_cells() < need - length or not self._empty():
            oldest = next((slot for slot in self.cached if slot != source), None)
            if oldest is None:
                break
            self.forget(oldest)
        tight = self.cells.free_cells() < need - length or not self._empty()
        if source is not None and source in self.cached:
            tail = max(0, self.cells.only_held_by({source}) - length)
            if (tight or tail <= SMALL_TAIL_TOKENS) and self.cells.free_cells() + tail >= need - length:
                return self._take_over(source, length)
            if tight:  # not even that fits beside the others: read it all anew, if that does
                self.forget(source)
                source, length = None, 0
        if self.cells.free_cells() < need - length or not self._empty():
            return None
        slot = min(self._empty())
        if source is not None:
            self.cells.fork(source, slot, length)
        return slot, length

    def apart(self, source: int | None, length: int) -> tuple[int, int] | None:
        """Find a slot where each slot has its own cells; None where all of them run.

        llama.cpp decodes neighbouring slots together and others one after another, so the running ones are kept side by
        side; cached cells in the way are moved to an empty slot, or are lost if there is none.
        """
        choices = [slot for slot in range(self.cells.slots) if slot not in self.running]
        if not choices:
            return None
        self._touch(source)
        oldest = {slot: age for age, slot in enumerate(self.cached)}
        small = source is not None and len(self.cached.get(source, ())) - length <= SMALL_TAIL_TOKENS

        def rank(slot: int) -> tuple[int, int, int]:
            kind = 0 if slot == source and small else 2 if slot in self.cached else 1
            return groups({*self.running, slot}), kind, oldest.get(slot, 0)

        slot = min(choices, key=rank)
        if slot == source:
            return self._take_over(slot, length)
        if slot in self.cached:
            self._move_away(slot, source)
        if source is not None:
            self.cells.fork(source, slot, length)
            if source in self.cached and small:  # all of it lives on in the new sequence
                self.forget(source)
        return slot, length

    def close_gap(self) -> None:
        """Move the last running sequence into a gap between the others, if there is one."""
        slots = sorted(self.running)
        if groups(set(slots)) < 2:
            return
        gap = next(slot for slot in range(slots[0], slots[-1]) if slot not in self.running)
        if gap in self.cached:
            self._move_away(gap, None)
        last = slots[-1]
        sequence = self.running.pop(last)
        if self.cells.held(last):
            self.cells.fork(last, gap, self.cells.held(last))
        self.cells.free(last)
        self.running[gap], sequence.slot = sequence, gap
        if self.tree.remove(last):
            self.tree.insert(gap, sequence.tokens)

    def _take_over(self, slot: int, length: int) -> tuple[int, int]:
        del self.cached[slot]
        self.tree.remove(slot)
        self.cells.cut(slot, length)
        return slot, length

    def _move_away(self, slot: int, source: int | None) -> None:
        """Free `slot`; keep what it cached in an empty slot or in place of something used less recently."""
        empty = [other for other in self._empty() if other != slot]
        if not empty:
            oldest = next(iter(self.cached))
            if oldest in (slot, source):
                self.forget(slot)
                return
            self.forget(oldest)
            empty = [oldest]
        target = empty[-1]
        self.cells.fork(slot, target, self.cells.held(slot))
        # it keeps its place in the order of use
        order = [(target if key == slot else key, tokens) for key, tokens in self.cached.items()]
        self.cached.clear()
        self.cached.update(order)
        self.tree.insert(target, self.cached[target])
        self.forget(slot)

    def _touch(self, slot: int | None) -> None:
        """Mark a cached slot as just used."""
        if slot is not None and slot in self.cached:
            self.cached[slot] = self.cached.pop(slot)

    def _empty(self) -> list[int]:
        return [s for s in range(self.cells.slots) if s not in self.running and s not in self.cached]


def groups(slots: set[int]) -> int:
    """Return how many runs of neighbouring slots there are."""
    return sum(slot - 1 not in slots for slot in slots)
