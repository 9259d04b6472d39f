"""DeepSeek R1, V3 and V3.1: a section with each call between markers, and fenced or bare arguments."""

from __future__ import annotations

import re

from .. import objects
from ..dialect import Dialect, Names
from ..events import BrokenCall, CallBegin, CallEnd, Reading
from ..source import Source

SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
KIND, FENCE, FENCE_END = "function", "```json", "```"
_NAME = re.compile(r"[^\s<>{}\"`]*")


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    if marker == SECTION:
        yield from source.blanks()
        yield from source.expect(BEGIN)
    while True:
        yield from _call(source)
        yield from source.blanks()
        found = yield from source.starts(BEGIN, SECTION_END)
        if found != BEGIN:
            return


def _call(source: Source) -> Reading[None]:
    """Read a call. If only arguments follow the separator, as in V3.1, the name is the word before the separator."""
    first = yield from source.word(_NAME)
    yield from source.expect(SEPARATOR)
    second = (yield from source.word(_NAME)) if first == KIND else ""
    if not (name := second or first):
        raise BrokenCall
    yield CallBegin(name)
    yield from source.blanks()
    fenced = yield from source.starts(FENCE)
    yield from objects.arguments(source)
    yield CallEnd()
    yield from source.blanks()
    if fenced:
        yield from source.expect(FENCE_END)
        yield from source.blanks()
    yield from source.expect(END)


DEEPSEEK = Dialect("deepseek", (SECTION, BEGIN), calls=_calls, markers=(SECTION, SECTION_END, BEGIN, SEPARATOR, END))
