"""Hermes and Qwen: <tool_call>, a JSON object and </tool_call> for each call."""

from __future__ import annotations

from .. import objects
from ..dialect import Dialect, Names
from ..events import Reading
from ..source import Source

BEGIN, END = "<tool_call>", "</tool_call>"


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    yield from source.blanks()
    yield from objects.call(source)
    yield from source.blanks()
    yield from source.expect(END)


HERMES = Dialect("hermes", (BEGIN,), calls=_calls, markers=(BEGIN, END))
