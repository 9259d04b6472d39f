"""Phi-4-mini and Granite 3: a JSON list of calls after <|tool_call|>, or after functools."""

from __future__ import annotations

from .. import objects
from ..dialect import Dialect, Names
from ..events import BrokenCall, Reading
from ..source import Source

BEGIN, END, WORD = "<|tool_call|>", "<|/tool_call|>", "functools["


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    if marker == BEGIN:
        yield from source.blanks()
        yield from source.expect("[")
    yield from objects.calls(source)
    if marker == BEGIN:
        yield from source.blanks()
        if not (yield from source.starts(END)) and not (yield from source.ended()):
            raise BrokenCall


PHI = Dialect("phi", (BEGIN, WORD), calls=_calls, markers=(BEGIN, END))
