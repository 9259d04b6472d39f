"""Encode and decode examples as compact JSON."""

from __future__ import annotations

import json
from typing import Any

from burnish.data.formats import Example, Message
from burnish.dialects.events import Call

_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def encoded(example: Example) -> bytes:
    """Return an example's content, without its location in the file."""
    content: Any = example.text
    if example.messages is not None:
        content = [_turn(message) for message in example.messages]
    whole = [content, list(example.tools), example.prompt] if example.tools or example.prompt else [content]
    return _dumps(whole).encode("utf-8", "surrogatepass")


def decoded(data: bytes, place: dict[str, Any]) -> Example:
    """Return the example at a `place` (the fields line, row, unit and file)."""
    content, *more = json.loads(data.decode("utf-8", "surrogatepass"))
    tools, prompt = more or ((), "")
    messages = tuple(map(_message, content)) if isinstance(content, list) else None
    text = content if messages is None else None
    return Example(messages=messages, text=text, tools=tuple(tools), prompt=prompt, **place)


def _turn(message: Message) -> list[Any]:
    plain = [message.role, message.content]
    if message.train and not (message.reasoning or message.calls or message.ids or message.name):
        return plain
    calls = [[call.name, call.arguments] for call in message.calls]
    return [*plain, message.train, message.reasoning, calls, list(message.ids), message.name]


def _message(turn: list[Any]) -> Message:
    if len(turn) == 2:
        return Message(*turn)
    role, content, trained, reasoning, calls, ids, name = turn
    return Message(role, content, trained, reasoning, tuple(Call(*call) for call in calls), tuple(ids), name)
