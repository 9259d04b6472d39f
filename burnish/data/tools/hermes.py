"""Rows as Hermes writes them: definitions, calls and results are text between tags, in a row that has `tools`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...dialects.formats.hermes import BEGIN, HERMES
from ...dialects.reader import parse

if TYPE_CHECKING:
    from ..messages import Message

TOOLS, TOOLS_END = "<tools>", "</tools>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"


def is_hermes(messages: Sequence[Message]) -> bool:
    """Return whether calls of these turns are text between tags."""
    answers = [m for m in messages if m.role == "assistant"]
    return not any(m.calls for m in answers) and any(BEGIN in m.content for m in answers)


def structured(messages: Sequence[Message], faults: list[str]) -> Iterator[Message]:
    """Yield the turns with calls and results instead of their text.

    A system turn that lists the tools is left out: the chat template writes the definitions in its model's own words.
    """
    for number, message in enumerate(messages, start=1):
        if message.role == "system" and TOOLS in message.content and TOOLS_END in message.content:
            continue
        if message.role == "assistant" and BEGIN in message.content:
            parsed = parse(message.content, HERMES)
            if BEGIN in parsed.content:
                faults.append(f"turn {number}: a {BEGIN} in its text is no call that can be read")
            yield replace(message, content=parsed.content, calls=parsed.calls, ids=("",) * len(parsed.calls))
        elif message.role == "tool" and RESULT in message.content:
            results = message.content.split(RESULT)[1:]
            yield from (replace(message, content=result.partition(RESULT_END)[0].strip()) for result in results)
        else:
            yield message
