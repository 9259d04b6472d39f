"""The turns of a conversation: their roles, texts, training flags and order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from ..dialects.events import Call
from ..errors import did_you_mean
from ..rendering.shape import tool_call
from .faults import kind, missing
from .flags import FLAGS, is_trained
from .schema import THOUGHTS
from .tables import dumped, parsed, parsed_list
from .tools.calls import CALL_KEYS, CALLING, RESULTS, calls_in_text, has_calls, read_calls

# speaker names in datasets → chat-template roles
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
ROLES |= dict.fromkeys(CALLING, "assistant") | dict.fromkeys(RESULTS, "tool")
SPEAKER_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")
TURN_KEYS = FLAGS.union(SPEAKER_KEYS, TEXT_KEYS, CALL_KEYS)
# of a turn with a tool result
RESULT_KEYS = ("tool_call_id", "name")
# types of content parts that contain reasoning, in Anthropic's and other APIs
THOUGHT_PARTS = frozenset({"thinking", "reasoning", "thought"})
# and all types; a list of other objects, as a tool's result, is data
PARTS = THOUGHT_PARTS | {"text", "image", "image_url", "input_image", "audio", "input_audio", "video", "file"}


@dataclass(frozen=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; `train` is False for a response used only as context.

    `reasoning` is the reasoning before a response, if the row stores it separately. `calls` are a response's tool
    calls, with one id each in `ids`. For a tool result, `ids` contains the id of the answered call, and `name` is
    the tool's name.
    """

    role: str
    content: str
    train: bool = True
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    ids: tuple[str, ...] = ()
    name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the turn in OpenAI's format; the renderer converts it to the form that the template expects."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning:
            found["reasoning_content"] = self.reasoning
        if self.calls:
            pairs = zip(self.ids, self.calls, strict=True)
            found["tool_calls"] = [tool_call(i, call.name, call.arguments) for i, call in pairs]
        if self.role == "tool":
            found |= {"tool_call_id": self.ids[0] if self.ids else ""} | ({"name": self.name} if self.name else {})
        return found

    @property
    def whole(self) -> str:
        """The content and calls as one text, for comparing or counting turns."""
        return "\n".join((*filter(None, [self.content]), *(f"{call.name}({call.arguments})" for call in self.calls)))


@dataclass
class Found:
    """Findings in a row besides its messages: errors, and keys that have no effect or can't be used.

    `ignored` contains flags on turns that are never trained.
    """

    faults: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    thoughts: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    blank_system: bool = False
    as_input: bool = False  # 'context' was read as 'input'


def read_turns(value: Any, column: str, found: Found, first: int = 1) -> list[Message]:
    """Return the messages for a list of turns, each an object with role and content, or with from and value.

    The list may also be a JSON string, or an object of lists, as written by `datasets` for sequences. In errors, turn
    numbers start at `first`.
    """
    turns = _as_list(value, column, found.faults)
    if turns is None:
        return []
    if not turns:
        found.faults.append(f"'{column}': expected turns, got an empty list")
    messages = []
    for number, turn in enumerate(turns, start=first):
        of_turn = Found()
        if message := _turn(turn, of_turn):
            messages.append(message)
        found.faults += [f"turn {number}: {fault}" for fault in of_turn.faults]
        if isinstance(turn, dict):
            known = TURN_KEYS.union(RESULT_KEYS) if message and message.role == "tool" else TURN_KEYS
            unused = {key for key in turn if key not in known and turn[key] is not None} - of_turn.thoughts
            found.unused.update(f"{column}[].{key}" for key in unused)
        found.thoughts.update(f"{column}[].{key}" for key in of_turn.thoughts)
        found.ignored.update(f"{column}[].{key}" for key in of_turn.ignored)
    return messages


def is_turns(value: str) -> bool:
    """Return whether a string is a JSON list of turns, each with a speaker and a text."""
    if not value.lstrip().startswith("["):
        return False
    turns = parsed_list(value, [])
    return bool(turns) and all(
        isinstance(turn, dict) and any(k in turn for k in SPEAKER_KEYS) and any(k in turn for k in TEXT_KEYS)
        for turn in turns or ()
    )


def check_order(messages: Sequence[Message], faults: list[str]) -> None:
    """Add order errors: chat templates expect a system turn first, then alternating user and assistant turns, ending
    with the assistant.

    Tool results belong between the assistant's calls and its next turn. Empty system turns are ignored; turn numbers
    refer to the row.
    """
    spoken = [(n, m) for n, m in enumerate(messages, start=1) if m.role != "system"]
    faults += [
        f"turn {n}: a system turn; only the first turn may be a system turn"
        for n, m in enumerate(messages, start=1)
        if m.role == "system" and n > 1 and m.content.strip()
    ]
    if spoken and spoken[0][1].role != "user":
        article = "an assistant" if spoken[0][1].role == "assistant" else "a tool"
        faults.append(f"turn {spoken[0][0]}: {article} turn; a conversation starts with a user turn")
    for (before, one), (after, other) in pairwise(spoken):
        if one.role == other.role != "tool":
            faults.append(f"turns {before} and {after} are both {one.role} turns; join them or remove one")
    responses = [m for _, m in spoken if m.role == "assistant"]
    if not responses:
        faults.append("there is no assistant turn, so there is nothing to train on")
    elif spoken[-1][1].role != "assistant":
        faults.append(
            f"turn {spoken[-1][0]}: the last turn is a {spoken[-1][1].role} turn; a row ends with an assistant turn"
        )
    elif not any(m.train for m in responses):
        faults.append("every assistant turn is excluded (weight 0, train false ...), so there is nothing to train on")


def as_context(messages: Sequence[Message]) -> list[Message]:
    """Return the turns with every response marked as untrained."""
    return [replace(m, train=False) if m.role == "assistant" else m for m in messages]


def _as_list(value: Any, column: str, faults: list[str]) -> list[Any] | None:
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            faults.append(f"'{column}': expected a list of turns (as JSON where cells hold only text), got text")
            return None
        wrong: list[str] = []
        turns = parsed_list(value, wrong)
        if turns is None:
            faults.append(f"'{column}': expected a list of turns as JSON, got text: {'; '.join(wrong)}")
        return turns
    if isinstance(value, dict) and value and all(isinstance(cells, list) for cells in value.values()):
        lists = list(value.values())
        if all(len(cells) == len(lists[0]) for cells in lists):
            return [dict(zip(value, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if not isinstance(value, list):
        faults.append(f"'{column}': expected a list of turns, got {kind(value)}")
        return None
    return value


def _turn(value: Any, found: Found) -> Message | None:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parsed(value) or value
    if not isinstance(value, dict):
        found.faults.append(f"expected an object with 'role' and 'content', or 'from' and 'value', got {kind(value)}")
        return None
    role = _role(value, found.faults)
    if role == "assistant" and has_calls(value):
        return _calling(value, *read_calls(value, found.faults), found)
    if role == "system" and any(key in value for key in TEXT_KEYS) and not any(value.get(key) for key in TEXT_KEYS):
        return Message("system", "")
    content = _result(value, found) if role == "tool" else _content(value, found)
    if role is None or content is None:
        return None
    text, thoughts = content
    if role == "assistant" and _speaker(value) in CALLING:
        return _calling({**value, TEXT_KEYS[0]: None, TEXT_KEYS[1]: None}, *calls_in_text(text, found.faults), found)
    if role == "tool":
        identity, name = (str(value.get(key) or "") for key in RESULT_KEYS)
        return Message(role, text, ids=(identity,) if identity else (), name=name)
    if role != "system" and not text.strip():
        found.faults.append("the response is empty" if role == "assistant" else "the user's text is empty")
    trained = is_trained(value, role, found.faults, found.ignored)
    if role != "assistant":
        found.ignored.update(["thoughts"] * bool(thoughts))
        return Message(role, text, trained)
    return Message(role, text, trained, "\n".join(dict.fromkeys([*thoughts, *_thoughts(value, found)])))


def _calling(value: dict[str, Any], calls: tuple[Call, ...], ids: tuple[str, ...], found: Found) -> Message | None:
    """Return an assistant turn with calls and optional text."""
    given = any(value.get(key) is not None for key in TEXT_KEYS)
    content = _content(value, found) if given else ("", [])
    trained = is_trained(value, "assistant", found.faults, found.ignored)
    if content is None or not calls:
        return None
    text, thoughts = content
    reasoning = "\n".join(dict.fromkeys([*thoughts, *_thoughts(value, found)]))
    return Message("assistant", text, trained, reasoning, calls, ids)


def _speaker(value: dict[str, Any]) -> Any:
    return next((value[key] for key in SPEAKER_KEYS if value.get(key) is not None), None)


def _thoughts(value: dict[str, Any], found: Found) -> list[str]:
    """Return an assistant turn's reasoning texts."""
    keys = [key for key in THOUGHTS if isinstance(value.get(key), str) and value[key].strip()]
    found.thoughts.update(keys)
    return [value[key] for key in keys]


def _key(value: dict[str, Any], names: tuple[str, str], faults: list[str]) -> str | None:
    """Return which of two equivalent keys the turn has; if it has neither or both, add an error and return None."""
    there = [name for name in names if name in value]
    given = [name for name in there if value[name] is not None]
    if len(given) == 1:
        return given[0]
    if given:
        faults.append(f"'{given[0]}' and '{given[1]}' are both set: remove one")
    elif there:
        faults.append(f"'{there[0]}': expected text, got null")
    else:
        # name the key that matches the turn's other keys
        faults.append(missing(names["from" in value or "value" in value], value, TURN_KEYS))
    return None


def _role(value: dict[str, Any], faults: list[str]) -> str | None:
    key = _key(value, SPEAKER_KEYS, faults)
    if key is None:
        return None
    name = value[key]
    if not isinstance(name, str):
        faults.append(f"'{key}': expected text, got {kind(name)}")
    elif name not in ROLES:
        faults.append(f"'{key}' is '{name}'{did_you_mean(name, ROLES)}")
    else:
        return ROLES[name]
    return None


def _result(value: dict[str, Any], found: Found) -> tuple[str, list[str]] | None:
    """Return a tool result's text: an object, or a list without content parts, becomes JSON, and null becomes ""."""
    there = [key for key in TEXT_KEYS if key in value]
    given = [key for key in there if value[key] is not None]
    if there and not given:
        return "", []
    content = value[given[0]] if len(given) == 1 else None
    if not isinstance(content, dict) and not (isinstance(content, list) and not _is_parts(content)):
        return _content(value, found)
    text = dumped(content, f"'{given[0]}'", found.faults)
    return None if text is None else (text, [])


def _is_parts(content: list[Any]) -> bool:
    """Return whether a result's list consists of content parts."""
    return bool(content) and all(
        isinstance(part, dict) and (part.get("type") in PARTS if "type" in part else part.keys() == {"text"})
        for part in content
    )


def _content(value: dict[str, Any], found: Found) -> tuple[str, list[str]] | None:
    """Return a turn's text and reasoning texts; the content is a string or a list of parts to join."""
    key = _key(value, TEXT_KEYS, found.faults)
    if key is None:
        return None
    content = value[key]
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        found.faults.append(f"'{key}': expected text, got {kind(content)}")
        return None
    texts: list[str] = []
    thoughts: list[str] = []
    wrong = len(found.faults)
    for number, part in enumerate(content, start=1):
        type = part.get("type", "text") if isinstance(part, dict) else None
        text = part.get("text") if type == "text" else part.get(type) if type in THOUGHT_PARTS else None
        if isinstance(text, str):
            (texts if type == "text" else thoughts).append(text)
        else:
            what = f"of type '{part.get('type')}'" if isinstance(part, dict) else kind(part)
            found.faults.append(f"part {number} of '{key}' is {what}; only text parts are trained")
    if thoughts:
        found.thoughts.add(f"{key}[].thinking")
    return ("".join(texts), thoughts) if len(found.faults) == wrong else None
