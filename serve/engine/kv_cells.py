"""KV cell accounting: which slots hold which cells, shared or not, and the operations the backend must apply."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Op(NamedTuple):
    """A cache operation: fork the first `length` cells of `source` to `slot`, cut `slot` to `length`, or free it."""

    kind: Literal["fork", "cut", "free"]
    slot: int
    length: int = 0
    source: int = -1


@dataclass(eq=False)
class _Span:
    """A run of cells held by one or more slots."""

    length: int
    holders: int = 1


@dataclass
class KVCells:
    """Tracks `total` cells across `slots` slots, with at most `per_slot` each.

    With `shared`, forking shares the cells (llama.cpp's unified layout). Otherwise each slot has its own cells and
    forking copies them. `ops` collects the operations for the backend, in order.
    """

    slots: int
    total: int
    per_slot: int
    shared: bool
    used: int = 0
    ops: list[Op] = field(default_factory=list)
    spans: list[list[_Span]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spans = [[] for _ in range(self.slots)]
        self.lengths = [0] * self.slots

    def held(self, slot: int) -> int:
        """The number of cells in the slot."""
        return self.lengths[slot]

    def available(self, slot: int) -> int:
        """The number of cells that can be added to the slot now."""
        own = self.per_slot - self.lengths[slot]
        return min(own, self.total - self.used) if self.shared else own

    def free_cells(self) -> int:
        """The number of free cells."""
        return self.total - self.used

    def grow(self, slot: int, count: int) -> None:
        """Add `count` new cells to the slot; the caller must have checked `available`."""
        assert 0 < count <= self.available(slot)
        spans = self.spans[slot]
        if spans and spans[-1].holders == 1:
            spans[-1].length += count
        else:
            spans.append(_Span(count))
        self.lengths[slot] += count
        self.used += count

    def shrink(self, slot: int, count: int) -> None:
        """Remove cells that a failed decode never filled; this needs no operation."""
        self._trim(slot, self.lengths[slot] - count)

    def fork(self, source: int, slot: int, length: int) -> None:
        """Start an empty slot with the first `length` cells from a different slot."""
        assert source != slot and not self.lengths[slot] and 0 < length <= self.lengths[source]
        if self.shared:
            self._split(source, length)
            forked, total = [], 0
            for span in self.spans[source]:
                if total == length:
                    break
                span.holders += 1
                forked.append(span)
                total += span.length
            self.spans[slot] = forked
        else:
            self.spans[slot] = [_Span(length)]
            self.used += length
        self.lengths[slot] = length
        self.ops.append(Op("fork", slot, length, source))

    def cut(self, slot: int, length: int) -> None:
        """Keep only the first `length` cells of a slot."""
        if length == 0:
            self.free(slot)
        elif length < self.lengths[slot]:
            self._trim(slot, length)
            self.ops.append(Op("cut", slot, length))

    def free(self, slot: int) -> None:
        if self.lengths[slot]:
            self._trim(slot, 0)
            self.ops.append(Op("free", slot))

    def only_held_by(self, slots: set[int]) -> int:
        """The number of cells held only by `slots`, which freeing all of these slots would release."""
        count: dict[int, int] = {}
        spans: dict[int, _Span] = {}
        for slot in slots:
            for span in self.spans[slot]:
                count[id(span)] = count.get(id(span), 0) + 1
                spans[id(span)] = span
        return sum(span.length for key, span in spans.items() if span.holders == count[key])

    def _split(self, slot: int, at: int) -> None:
        """Split the span at cell `at`, for every slot that holds it."""
        total = 0
        for span in self.spans[slot]:
            if total < at < total + span.length:
                tail = _Span(total + span.length - at, span.holders)
                span.length = at - total
                for spans in self.spans:
                    if span in spans:
                        spans.insert(spans.index(span) + 1, tail)
                return
            total += span.length

    def _trim(self, slot: int, length: int) -> None:
        self._split(slot, length)
        spans, total, keep = self.spans[slot], 0, 0
        while total < length:
            total += spans[keep].length
            keep += 1
        for span in spans[keep:]:
            span.holders -= 1
            self.used -= span.length if not span.holders else 0
        del spans[keep:]
        self.lengths[slot] = length
