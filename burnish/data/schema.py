"""The formats' columns, and other columns with a known meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Columns:
    """A format's required and optional columns."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        return frozenset((*self.required, *self.optional))


FORMATS: Mapping[str, Columns] = {
    "sharegpt": Columns(("conversations",), ("system", "tools")),
    "messages": Columns(("messages",), ("system", "tools")),
    "alpaca": Columns(("instruction", "output"), ("input", "system", "history")),
    "prompt-completion": Columns(("prompt", "completion"), ("system", "tools")),
    "text": Columns(("text",)),
    "dolly": Columns(("instruction", "response"), ("context", "system")),
    "ultrachat": Columns(("data",), ("system",)),
    "oasst": Columns(("message_tree_id", "prompt")),
    "preference": Columns(("chosen", "rejected"), ("prompt", "question", "messages", "conversations", "system")),
}
# of a message in OpenAssistant's table, whose conversations are spread over rows
MESSAGES_APART = frozenset({"message_id", "parent_id", "text", "role"})
# names for the reasoning before a response, as a column or as a key of an assistant turn
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "chain_of_thought", "rationale")
# names for the text that a question refers to; without it a model learns to invent answers
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
# columns that are read regardless of their type in the file
KNOWN = frozenset().union(*(columns.all for columns in FORMATS.values()), THOUGHTS, CONTEXTS, ("conversation",))


def fitting(value: Any) -> list[str]:
    """Return the formats whose required keys a row has; "text", often just an extra column, only if no other fits."""
    if isinstance(value, str):
        return ["text"]
    if not isinstance(value, dict):
        return []
    keys = {key for key, cell in value.items() if cell is not None}
    keys |= {"conversations"} if "conversation" in keys else set()
    found = [name for name, columns in FORMATS.items() if keys.issuperset(columns.required) and _is(name, value)]
    if keys >= MESSAGES_APART:
        return []
    if "preference" in found:  # its conversation is the prompt, which other formats would read as whole
        return ["preference"]
    return [name for name in found if name != "text"] or found


def _is(name: str, row: dict[str, Any]) -> bool:
    """Return whether a row with a format's columns can be of that format: for names that other data may have too."""
    if name == "ultrachat":
        texts = row["data"]
        return isinstance(texts, list) and len(texts) > 1 and all(isinstance(text, str) for text in texts)
    return name != "oasst" or isinstance(row["prompt"], dict)
