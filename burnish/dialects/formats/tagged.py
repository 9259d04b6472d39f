"""Arguments between tags, without types: Qwen3-Coder's <parameter=NAME>, and GLM's <arg_key> and <arg_value>.

Strings are written unquoted and other values as JSON, so the tool's parameters determine a value's type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..definitions import types
from ..dialect import Dialect, Names
from ..events import BrokenCall, CallArguments, CallBegin, CallEnd, Event, Reading, Waiting, Writing
from ..objects import written
from ..source import LONGEST_WORD, Source
from ..values import Notation, escaped, escaped_until, json_text

BEGIN, END = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END, PARAMETER, PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"
KEY, KEY_END, VALUE, VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME, _GLM_NAME = re.compile(r"[^>\r\n]*"), re.compile(r"[^\s<{\[\"]*")
# Python's words occur because templates write true as str(True)
_WRITTEN = Notation(
    literals={"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
)
_KINDS = {"{": {"object"}, "[": {"array"}, "t": {"boolean"}, "f": {"boolean"}, "n": {"null"}}
_NUMBERS = {"integer", "number"}
_TEXT = frozenset({"string"})


def _qwen(source: Source, marker: str, names: Names) -> Reading[None]:
    yield from source.blanks()
    yield from source.expect(FUNCTION)
    name = yield from source.word(_NAME)
    yield from source.expect(">")
    yield from _begun(name)
    first = True
    while True:
        yield from source.blanks()
        if (yield from source.expect(PARAMETER, FUNCTION_END)) == FUNCTION_END:
            break
        key = yield from source.word(_NAME)
        yield from source.expect(">")
        yield from source.starts("\r\n", "\n")
        yield from _argument(source, key, (f"\n{PARAMETER_END}", PARAMETER_END), _schema(names, name, key), first)
        first = False
    yield from _ended()
    yield from source.blanks()
    yield from source.expect(END)


def _glm(source: Source, marker: str, names: Names) -> Reading[None]:
    name = yield from source.word(_GLM_NAME)
    yield from _begun(name)
    first = True
    while True:
        yield from source.blanks()
        if (yield from source.expect(KEY, END)) == END:
            break
        key = yield from _until(source, (KEY_END,), LONGEST_WORD)
        yield from source.blanks()
        yield from source.expect(VALUE)
        yield from _argument(source, key, (VALUE_END,), _schema(names, name, key), first)
        first = False
    yield from _ended()


def _begun(name: str) -> Iterator[Event]:
    if not name:
        raise BrokenCall
    yield CallBegin(name)
    yield CallArguments("{")


def _ended() -> Iterator[Event]:
    yield CallArguments("}")
    yield CallEnd()


def _schema(names: Names, name: str, key: str) -> Any:
    """Return the schema of a tool's parameter; None if unknown."""
    parameters = names.get(name) if isinstance(names, Mapping) else None
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties.get(key) if isinstance(properties, Mapping) else None


def _argument(source: Source, key: str, ends: tuple[str, ...], schema: Any, first: bool) -> Reading[None]:
    """Read a value up to one of its end tags. Text is passed on as it arrives, other values when complete."""
    if not key:
        raise BrokenCall
    yield CallArguments(f"{'' if first else ', '}{json.dumps(key, ensure_ascii=False)}: ")
    allowed = types(schema)
    if allowed == _TEXT:
        yield from written(_string(source, ends))
    else:
        yield CallArguments(_json((yield from _until(source, ends)), allowed))


def _string(source: Source, ends: tuple[str, ...]) -> Writing[None]:
    yield '"'
    yield from escaped_until(source, ends)
    yield '"'


def _json(text: str, allowed: frozenset[str] | None) -> str:
    """Return a value as JSON text: parsed if its type is allowed, otherwise as a string."""
    inner = Source()
    inner.add(text, final=True)
    try:
        value = "".join(piece for piece in _only(inner) if piece)
    except BrokenCall:
        value = ""
    kinds = _KINDS.get(value[:1], _NUMBERS)
    if not value or value.startswith('"') or (allowed is not None and not kinds & allowed):
        return f'"{escaped(text)}"'
    return value


def _only(source: Source) -> Writing[None]:
    yield from json_text(source, _WRITTEN)
    yield from source.blanks()
    if (yield from source.peek()):
        raise BrokenCall


def _until(source: Source, ends: tuple[str, ...], limit: int | None = None) -> Waiting[str]:
    """Read the text up to an end tag. Raises BrokenCall if there is none, or the text is longer than `limit`."""
    parts: list[str] = []
    pieces = source.until(ends)
    while limit is None or sum(map(len, parts)) <= limit:
        try:
            piece = next(pieces)
        except StopIteration as end:
            if not end.value:
                raise BrokenCall from None
            return "".join(parts)
        if piece is None:
            yield None
        else:
            parts.append(piece)
    raise BrokenCall


QWEN_XML = Dialect("qwen-xml", (BEGIN,), calls=_qwen, markers=(BEGIN, END), sign=FUNCTION)
GLM = Dialect("glm", (BEGIN,), calls=_glm, markers=(BEGIN, END, KEY, KEY_END, VALUE, VALUE_END))
