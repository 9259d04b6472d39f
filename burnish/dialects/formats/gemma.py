"""FunctionGemma and Gemma 4: call:name{key:value} between markers, with special quotation marks around strings."""

from __future__ import annotations

import re

from .. import objects
from ..dialect import Dialect, Names
from ..events import BrokenCall, CallBegin, CallEnd, Reading
from ..source import Source
from ..values import Notation, json_text

ENDS = {"<|tool_call>": "<tool_call|>", "<start_function_call>": "<end_function_call>"}
QUOTES = {"<|tool_call>": '<|"|>', "<start_function_call>": "<escape>"}
_NAME, _KEY = re.compile(r"[^\s{}<>:,\"]*"), re.compile(r"[^\s{}\[\]<>:,\"]*")
_LITERALS = {"true": "true", "false": "false", "null": "null", "None": "null", "True": "true", "False": "false"}


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    yield from source.blanks()
    yield from source.expect("call:")
    name = yield from source.word(_NAME)
    if not name or (yield from source.peek()) != "{":
        raise BrokenCall
    yield CallBegin(name)
    notation = Notation((QUOTES[marker],), "", _LITERALS, bare_key=_KEY)
    yield from objects.written(json_text(source, notation))
    yield CallEnd()
    yield from source.blanks()
    yield from source.expect(ENDS[marker])


GEMMA = Dialect(
    "gemma",
    tuple(ENDS),
    calls=_calls,
    ends=("<|tool_response>", "<start_function_response>"),
    markers=(*ENDS, *ENDS.values(), *QUOTES.values()),
)
