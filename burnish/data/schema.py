"""The columns that the formats know, and those that mean something beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Columns:
    """The columns that a format needs, and those that it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        return frozenset((*self.required, *self.optional))


FORMATS: Mapping[str, Columns] = {
    "sharegpt": Columns(("conversations",), ("system",)),
    "messages": Columns(("messages",), ("system",)),
    "alpaca": Columns(("instruction", "output"), ("input", "system", "history")),
    "prompt-completion": Columns(("prompt", "completion"), ("system",)),
    "text": Columns(("text",)),
}
# what a response was thought up with: as a column, or as a key of an assistant's turn
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "chain_of_thought", "rationale")
# what a question is about: without it a model learns to answer from nothing
CONTEXTS = frozenset(
    (
        "context",
        "contexts",
        "input",
        "history",
        "background",
        "knowledge",
        "passage",
        "passages",
        "document",
        "documents",
    )
)
# columns whose values are needed, whatever type a file gives them
KNOWN = frozenset().union(*(columns.all for columns in FORMATS.values()), THOUGHTS, CONTEXTS, ("conversation",))


def fitting(value: Any) -> list[str]:
    """Return the formats whose required keys a row has; text only where no other fits, as it often stands beside."""
    if isinstance(value, str):
        return ["text"]
    if not isinstance(value, dict):
        return []
    keys = {key for key, cell in value.items() if cell is not None}
    keys |= {"conversations"} if "conversation" in keys else set()
    found = [name for name, columns in FORMATS.items() if keys.issuperset(columns.required)]
    return [name for name in found if name != "text"] or found
