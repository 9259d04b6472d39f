"""A radix tree over the tokens of all slots, which finds the slot that shares the longest prefix with a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Node:
    """A node: the tokens on the edge from its parent, and every slot whose tokens pass through it."""

    edge: tuple[int, ...]
    parent: _Node | None
    slots: set[int] = field(default_factory=set)
    children: dict[int, _Node] = field(default_factory=dict)


class PrefixTree:
    """Maps each slot to one token sequence."""

    def __init__(self) -> None:
        self._root = _Node((), None)
        self._ends: dict[int, _Node] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def insert(self, slot: int, tokens: Sequence[int]) -> None:
        """Map `slot` to `tokens`, replacing its previous tokens."""
        self.remove(slot)
        node, rest = self._root, tuple(tokens)
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = _Node(rest, node)
                node.children[rest[0]] = child
            shared = common_prefix(child.edge, rest)
            if shared < len(child.edge):
                child = self._split(child, shared)
            child.slots.add(slot)
            node, rest = child, rest[shared:]
        self._ends[slot] = node

    def remove(self, slot: int) -> bool:
        """Remove a slot; False if it was not in the tree."""
        node = end = self._ends.pop(slot, None)
        while node is not None and node.parent is not None:
            node.slots.discard(slot)
            parent = node.parent
            if not node.slots:
                del parent.children[node.edge[0]]
            elif len(node.children) == 1 and (only := next(iter(node.children.values()))).slots == node.slots:
                self._join(node, only)
            node = parent
        return end is not None

    def matches(self, tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield (slot, length of the prefix shared with `tokens`), each slot once, longest first."""
        path: list[tuple[_Node, int]] = []
        node, rest, length = self._root, tuple(tokens), 0
        while rest and (child := node.children.get(rest[0])) is not None:
            shared = common_prefix(child.edge, rest)
            length += shared
            path.append((child, length))
            if shared < len(child.edge):
                break
            node, rest = child, rest[shared:]
        seen: set[int] = set()
        for node, length in reversed(path):
            for slot in sorted(node.slots - seen):
                seen.add(slot)
                yield slot, length

    def _split(self, node: _Node, at: int) -> _Node:
        """Split an edge in two; return the upper node."""
        parent = node.parent
        assert parent is not None
        upper = _Node(node.edge[:at], parent, set(node.slots), {node.edge[at]: node})
        parent.children[node.edge[0]] = upper
        node.edge, node.parent = node.edge[at:], upper
        return upper

    def _join(self, node: _Node, only: _Node) -> None:
        """Merge a node with its only child once a split is no longer needed."""
        node.edge += only.edge
        node.children = only.children
        for child in node.children.values():
            child.parent = node
        for slot in only.slots:
            if self._ends.get(slot) is only:
                self._ends[slot] = node


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share."""
    shortest = min(len(left), len(right))
    if left[:shortest] == right[:shortest]:
        return shortest
    low, high = 0, shortest  # left[:low] is shared, left[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle)
    return low
