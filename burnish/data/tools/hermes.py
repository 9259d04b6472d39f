"""Hermes rows: definitions, calls and results are text between tags in a row with `tools`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...dialects.formats.hermes import BEGIN, HERMES
from ...dialects.reader import parse

if TYPE_CHECKING:
    from ..messages import Message

TOOLS, TOOLS_END = "<tools>", "</tools>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"
# the definitions, and the form of a call
_BLOCKS = re.compile(r"(?<![ \t])[ \t]*<(?P<tag>tools|tool_call)>\s*[\[{](?:(?!<(?P=tag)>).)*?</(?P=tag)>", re.DOTALL)
# the JSON schema of a call, on a line
_SCHEMA = re.compile(r"^([^{\n]*)\{(?>[^<\n]*FunctionCall)[^<\n]*\}", re.MULTILINE)
_SENTENCE = re.compile(r"[^.:\n]+[.:]?|[.:\n]")
# sentences about the list: those that name its tags, and the usual others
_ABOUT = re.compile(
    r".*<(?P<tag>tools|tool_call|tool_response)>\s*</(?P=tag)>.*|# tools"
    r"|you are a function calling ai model\.|here are the available tools:"
    r"|you may call one or more functions to assist with the user query\."
    r"|if available tools are not relevant in assisting with user query,.*"
    r"|don't make assumptions about what values to plug into functions\."
    r"|(?:use the following|for each function call,? return a json object,? with the following) pydantic model.*:",
    re.IGNORECASE,
)


def is_hermes(messages: Sequence[Message]) -> bool:
    """Return whether these turns contain calls as text between tags."""
    answers = [m for m in messages if m.role == "assistant"]
    return not any(m.calls for m in answers) and any(BEGIN in m.content for m in answers)


def lists_tools(text: str) -> bool:
    """Return whether a system turn's text lists the tools."""
    return TOOLS in text and TOOLS_END in text


def without_list(text: str) -> str:
    """Return a system turn's text without its list of tools and the usual sentences about it.

    The chat template writes the definitions in its model's own words. Other instructions stay.
    """
    parts = _BLOCKS.split(text)[::2]  # every second one is a tag's name
    *before, last = (_SCHEMA.sub(r"\1", part) for part in parts)
    text = "".join([*map(_without_lead, before), last])
    kept = [part for part in _SENTENCE.findall(text) if not _ABOUT.fullmatch(part.strip())]
    return re.sub(r"\n{3,}", "\n\n", "".join(kept)).strip()


def _without_lead(text: str) -> str:
    """Return a text without a final sentence that ends with a colon."""
    bare = text.rstrip()
    return text[: max(bare.rfind(mark, 0, -1) for mark in ".:\n") + 1] if bare.endswith(":") else text


def structured(messages: Sequence[Message], faults: list[str]) -> Iterator[tuple[int, Message]]:
    """Yield the turns with parsed calls and results, each with its number in the row."""
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant" and BEGIN in message.content:
            parsed = parse(message.content, HERMES)
            if BEGIN in parsed.content:
                faults.append(f"turn {number}: a {BEGIN} in its text can't be parsed as a call")
            called = replace(message, content=parsed.content, calls=parsed.calls, ids=("",) * len(parsed.calls))
            yield number, called
        elif message.role == "tool" and RESULT in message.content:
            results = message.content.split(RESULT)[1:]
            yield from ((number, replace(message, content=r.partition(RESULT_END)[0].strip())) for r in results)
        else:
            yield number, message
