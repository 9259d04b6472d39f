"""Llama 3.x: JSON objects with name and parameters, separated by semicolons, optionally after <|python_tag|>."""

from __future__ import annotations

from .. import objects
from ..dialect import Dialect, Names
from ..events import Reading
from ..source import Source

TAG = "<|python_tag|>"


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    while True:
        yield from source.blanks()
        yield from objects.call(source, None if marker else names)
        yield from source.blanks()
        if not (yield from source.starts(";")) and (yield from source.peek()) != "{":
            return


LLAMA_JSON = Dialect("llama-json", (TAG,), ("{",), _calls, ends=("<|eom_id|>",), markers=(TAG,), sign='"parameters"')
