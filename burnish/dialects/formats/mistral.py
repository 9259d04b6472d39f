"""Mistral: [TOOL_CALLS] before a JSON list of calls, or before each name, which [ARGS] follows."""

from __future__ import annotations

import re

from .. import objects
from ..dialect import Dialect, Names
from ..events import BrokenCall, CallBegin, CallEnd, Reading
from ..source import Source

BEGIN, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME, _ID = re.compile(r"[^\s\[\]{}\"]*"), re.compile(r"[0-9A-Za-z_-]*")


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    yield from source.blanks()
    if (yield from source.starts("[")):
        yield from objects.calls(source)
        return
    name = yield from source.word(_NAME)
    if not name:
        raise BrokenCall
    if (yield from source.starts(ID)):
        yield from source.word(_ID)
    if not (yield from source.starts(ARGS)) and (yield from source.peek()) != "{":
        raise BrokenCall
    yield CallBegin(name)
    yield from objects.arguments(source)
    yield CallEnd()


MISTRAL = Dialect("mistral", (BEGIN,), calls=_calls, markers=(BEGIN, ID, ARGS))
