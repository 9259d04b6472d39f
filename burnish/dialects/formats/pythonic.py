"""Llama 3.2, Llama 4, ToolACE and LFM2: a list of calls in Python syntax: [f(a=1, b='x'), g()]."""

from __future__ import annotations

import json
import re

from .. import objects
from ..dialect import Dialect, Names
from ..events import BrokenCall, CallArguments, CallBegin, CallEnd, Reading
from ..source import Source
from ..values import Notation, json_text

BEGIN, END, TAG = "<|tool_call_start|>", "<|tool_call_end|>", "<|python_tag|>"
_NAME, _ARGUMENT = re.compile(r"[A-Za-z0-9_.\-]*"), re.compile(r"\w*")
PYTHON = Notation(
    quotes=('"', "'"),
    escapes="python",
    literals={"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"},
    openings=("{", "[", "("),
)


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    yield from source.blanks()
    yield from source.expect("[")
    while True:
        yield from source.blanks()
        yield from _call(source, None if marker else names)
        yield from source.blanks()
        if (yield from source.expect(",", "]")) == "]":
            break
    if marker == BEGIN:
        yield from source.blanks()
        yield from source.starts(END)


def _call(source: Source, names: Names) -> Reading[None]:
    name = yield from source.word(_NAME)
    if not name or (names is not None and name not in names):
        raise BrokenCall
    yield from source.expect("(")
    yield CallBegin(name)
    yield CallArguments("{")
    yield from source.blanks()
    if not (yield from source.starts(")")):
        while True:
            yield from _argument(source)
            yield from source.blanks()
            if (yield from source.expect(",", ")")) == ")":
                break
            yield CallArguments(", ")
    yield CallArguments("}")
    yield CallEnd()


def _argument(source: Source) -> Reading[None]:
    yield from source.blanks()
    name = yield from source.word(_ARGUMENT)
    yield from source.blanks()
    yield from source.expect("=")
    if not name:
        raise BrokenCall
    yield CallArguments(f"{json.dumps(name, ensure_ascii=False)}: ")
    yield from objects.written(json_text(source, PYTHON))


PYTHONIC = Dialect("pythonic", (BEGIN, TAG), ("[",), _calls, ends=("<|eom_id|>",), markers=(BEGIN, END, TAG))
