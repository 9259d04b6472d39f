"""The turns of a conversation: who speaks, what is said, what of it is learned, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..errors import did_you_mean, nearest

# the names that data sets give to a speaker, and the role that chat templates know
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
TOOL_ROLES = frozenset(
    {"tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response", "ipython"}
)
SPEAKER_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")
TURN_KEYS = frozenset({*SPEAKER_KEYS, *TEXT_KEYS, "weight", "tool_calls", "function_call"})
NO_TOOLS = "tool calls are not trained yet"


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user or assistant; `train` is False for a response that is context only.

    `reasoning` is the thought before a response, where the row gives it apart from the text.
    """

    role: str
    content: str
    train: bool = True
    reasoning: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the turn as chat templates take it."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        return {"role": self.role, "content": self.content, **thought}


def kind(value: Any) -> str:
    """Return what a value is, in the words of JSON: "a number", "null", "an object"."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def missing(key: str, row: dict[str, Any], known: frozenset[str]) -> str:
    """Return the fault of a key that is not there: with a near one that is, else with all that are."""
    present = [name for name, value in row.items() if value is not None]
    near = nearest(key, [name for name in present if name not in known])
    if near:
        return f"no '{key}'; '{near}' is near, did you mean that?"
    return f"no '{key}' (it has {', '.join(repr(name) for name in present[:8]) or 'no keys'})"


def read_turns(value: Any, column: str, faults: list[str], unused: set[str], first: int = 1) -> list[Message]:
    """Return the messages of a list of turns, each an object with role and content, or with from and value.

    Turns are numbered from `first` in the faults. Keys that say nothing to us are added to `unused`.
    """
    if not isinstance(value, list):
        hint = " (a CSV cell holds text only: write such rows as JSONL)" if isinstance(value, str) else ""
        faults.append(f"'{column}' is {kind(value)}, expected a list of turns{hint}")
        return []
    if not value:
        faults.append(f"'{column}' is an empty list, expected turns")
    messages = []
    for number, turn in enumerate(value, start=first):
        found: list[str] = []
        if message := _turn(turn, found):
            messages.append(message)
        faults += [f"turn {number}: {fault}" for fault in found]
        if isinstance(turn, dict):
            unused.update(f"{column}[].{key}" for key in turn if key not in TURN_KEYS and turn[key] is not None)
    return messages


def check_order(messages: Sequence[Message], faults: list[str]) -> None:
    """Add what chat templates refuse: system first only, then user and assistant in turn, the assistant last."""
    spoken = [(n, m) for n, m in enumerate(messages, start=1) if m.role != "system"]
    faults += [
        f"turn {n}: a system turn; only the first turn may be one"
        for n, m in enumerate(messages, start=1)
        if m.role == "system" and n > 1
    ]
    if spoken and spoken[0][1].role == "assistant":
        faults.append(f"turn {spoken[0][0]}: the assistant speaks first; a conversation begins with the user's turn")
    for (before, one), (after, other) in pairwise(spoken):
        if one.role == other.role:
            faults.append(f"turns {before} and {after} are both the {one.role}'s; join them, or take one out")
    responses = [m for _, m in spoken if m.role == "assistant"]
    if not responses:
        faults.append("there is no assistant turn, so nothing to learn")
    elif spoken[-1][1].role != "assistant":
        faults.append(f"turn {spoken[-1][0]}: the last turn is the user's; a row ends with the assistant's")
    elif not any(m.train for m in responses):
        faults.append("every assistant turn has weight 0, so there is nothing to learn")


def as_context(messages: Sequence[Message]) -> list[Message]:
    """Return the same turns with no response in them to learn."""
    return [replace(m, train=False) if m.role == "assistant" else m for m in messages]


def _turn(value: Any, faults: list[str]) -> Message | None:
    if not isinstance(value, dict):
        faults.append(f"it is {kind(value)}, expected an object with 'role' and 'content', or 'from' and 'value'")
        return None
    role = _role(value, faults)
    if value.get("tool_calls") or value.get("function_call"):
        faults.append(NO_TOOLS)
        return None
    content = _content(value, faults)
    if role is None or content is None:
        return None
    if role != "system" and not content.strip():
        faults.append("the response is empty" if role == "assistant" else "the user's text is empty")
    return Message(role, content, _trained(value, role, faults))


def _key(value: dict[str, Any], names: tuple[str, str], faults: list[str]) -> str | None:
    """Return which of two names of the same thing the turn has; None, and a fault, where it has none or both."""
    there = [name for name in names if name in value]
    given = [name for name in there if value[name] is not None]
    if len(given) == 1:
        return given[0]
    if given:
        faults.append(f"it has both '{given[0]}' and '{given[1]}'")
    elif there:
        faults.append(f"'{there[0]}' is null, expected text")
    else:
        # the pair that the turn's other keys belong to
        faults.append(missing(names["from" in value or "value" in value], value, TURN_KEYS))
    return None


def _role(value: dict[str, Any], faults: list[str]) -> str | None:
    key = _key(value, SPEAKER_KEYS, faults)
    if key is None:
        return None
    name = value[key]
    if not isinstance(name, str):
        faults.append(f"'{key}' is {kind(name)}, expected text")
    elif name in TOOL_ROLES:
        faults.append(f"'{key}' is '{name}': {NO_TOOLS}")
    elif name not in ROLES:
        faults.append(f"'{key}' is '{name}'{did_you_mean(name, ROLES)}")
    else:
        return ROLES[name]
    return None


def _content(value: dict[str, Any], faults: list[str]) -> str | None:
    """Return the text of a turn: a string, or a list of text parts, which are joined as they stand."""
    key = _key(value, TEXT_KEYS, faults)
    if key is None:
        return None
    content = value[key]
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        faults.append(f"'{key}' is {kind(content)}, expected text")
        return None
    texts = []
    for number, part in enumerate(content, start=1):
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        if isinstance(text, str):
            texts.append(text)
        else:
            what = f"of type '{part.get('type')}'" if isinstance(part, dict) else kind(part)
            faults.append(f"part {number} of '{key}' is {what}; only text parts are trained")
    return "".join(texts) if len(texts) == len(content) else None


def _trained(value: dict[str, Any], role: str, faults: list[str]) -> bool:
    """Read OpenAI's `weight`: 0 keeps an assistant's turn as context only."""
    weight = value.get("weight")
    if weight is None:
        return True
    if role != "assistant":
        faults.append(f"'weight' stands on a {role} turn; only assistant turns have one")
    elif isinstance(weight, bool) or weight not in (0, 1):
        faults.append(f"'weight' is {weight!r}, expected 0 or 1")
    return bool(weight)
