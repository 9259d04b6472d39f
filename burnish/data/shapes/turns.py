"""Rows of well-known datasets as lists of turns: Dolly, OpenAssistant's trees, UltraChat, LIMA, Capybara, pairs.

Each function returns the turns, or what is wrong with the row. Everything else about turns is checked where all
conversations are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..columns.transcript import STYLES
from ..faults import kind

Turns = list[dict[str, Any]]
Row = Mapping[str, Any]
MOST_DEPTH = 1000  # replies in a tree
ROLES = {"prompter": "user", "user": "user", "assistant": "assistant", "system": "system"}
PROMPTS = ("prompt", "question", "instruction")
TURNS = ("conversations", "messages", "prompt")


def dolly(row: Row) -> Turns | str:
    """Read instruction, context and response."""
    parts = [row.get("instruction"), row.get("context")]
    if wrong := next((part for part in parts if not isinstance(part, (str, type(None)))), None):
        return f"'instruction' or 'context': expected text, got {kind(wrong)}"
    user = "\n".join(part for part in parts if part and part.strip())
    return _pair(user, row.get("response"), "response")


def ultrachat(row: Row) -> Turns | str:
    """Read `data`, a list of texts by the user and the assistant in turn."""
    return alternating(row.get("data"), "data")


def alternating(texts: Any, column: str) -> Turns | str:
    """Read a list of texts by the user and the assistant in turn, as in LIMA and UltraChat."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return f"'{column}': expected a list of texts, got {kind(texts)}"
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def expanded(turns: Any) -> Any:
    """Return turns for a list of texts (LIMA) or of {input, output} (Capybara); others unchanged."""
    if not isinstance(turns, list) or not turns:
        return turns
    if all(isinstance(turn, str) and not turn.lstrip().startswith("{") for turn in turns):
        return alternating(turns, "conversations")
    if all(isinstance(turn, dict) and {"input", "output"} <= turn.keys() for turn in turns):
        roles = (("user", "input"), ("assistant", "output"))
        return [{"role": role, "content": turn[key]} for turn in turns for role, key in roles]
    return turns


def oasst(row: Row) -> Turns | str:
    """Read one of OpenAssistant's trees: the conversation of the best-ranked replies."""
    turns: Turns = []
    node = row.get("prompt")
    while isinstance(node, dict) and len(turns) < MOST_DEPTH:
        role = ROLES.get(str(node.get("role")))
        if role is None or not isinstance(node.get("text"), str):
            return f"message {len(turns) + 1} of the tree has no text, or its role is {node.get('role')!r}"
        turns.append({"role": role, "content": node["text"]})
        replies = [reply for reply in node.get("replies") or () if isinstance(reply, dict) and not reply.get("deleted")]
        node = min(replies, key=_rank, default=None)
    while turns and turns[-1]["role"] == "user":
        turns.pop()  # a question that nobody answered
    return turns or "the tree has no answer, so there is nothing to train on"


def _rank(reply: Row) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, (int, float)) else float("inf")


def preference(row: Row) -> Turns | str:
    """Read a preference pair's conversation with the chosen answer."""
    chosen = row.get("chosen")
    if isinstance(chosen, list):
        return _with_context(row, chosen)
    if isinstance(chosen, dict):
        return _with_context(row, [chosen])
    if not isinstance(chosen, str):
        return f"'chosen': expected text or turns, got {kind(chosen)}"
    prompt = next((row[name] for name in PROMPTS if row.get(name) is not None), None)
    if isinstance(prompt, str):
        return _pair(prompt, chosen, "chosen")
    if prompt is None and not any(row.get(name) for name in TURNS):
        return STYLES["human-assistant"].split(chosen)
    return _with_context(row, [{"role": "assistant", "content": chosen}])


def _with_context(row: Row, answer: Turns) -> Turns | str:
    """Return the turns before an answer, as context, and the answer; an answer may repeat them."""
    before: Any = next((row[name] for name in TURNS if isinstance(row.get(name), list)), None)
    text = next((row[name] for name in PROMPTS if isinstance(row.get(name), str)), None)
    if len(answer) > 1 or (before is None and text is None):
        return answer  # whole conversations
    turns = before if before is not None else [{"role": "user", "content": text}]
    return [*(turn | {"train": False} if _answers(turn) else turn for turn in turns), *answer]


def _answers(turn: Any) -> bool:
    return isinstance(turn, dict) and (turn.get("role") or turn.get("from")) in ("assistant", "gpt")


def _pair(user: str, answer: Any, column: str) -> Turns | str:
    if not isinstance(answer, str):
        return f"'{column}': expected text, got {kind(answer)}"
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


SHAPES: Mapping[str, Callable[[Row], Turns | str]] = {
    "dolly": dolly,
    "ultrachat": ultrachat,
    "oasst": oasst,
    "preference": preference,
}
