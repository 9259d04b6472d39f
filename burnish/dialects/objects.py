"""Calls as JSON objects, {"name": ..., "arguments": {...}}, used by most model families."""

from __future__ import annotations

from collections.abc import Iterable

from .dialect import Names
from .events import BrokenCall, CallArguments, CallBegin, CallEnd, Event, Reading, Waiting
from .source import Source
from .values import json_string, json_text

NAMES = ("name", "function")
ARGUMENTS = ("arguments", "parameters")
# other keys that a call may contain, as in OpenAI's API: read but not used
OTHERS = frozenset({"id", "type", "index"})
NO_ARGUMENTS = "{}"


def call(source: Source, names: Names = None) -> Reading[None]:
    """Read a call. `names`: the tool names; any other name is not a call. Raises BrokenCall.

    Arguments may be an object, a string containing an object, or missing if the call has a marker (`names` is None).
    """
    yield from source.expect("{")
    name, waiting, given = "", list[Event](), False
    while True:
        yield from source.blanks()
        key = yield from json_string(source)
        yield from source.blanks()
        yield from source.expect(":")
        yield from source.blanks()
        if key in NAMES and not name:
            name = yield from tool_name(source, names)
            yield CallBegin(name)
            yield from waiting
        elif key in ARGUMENTS and not given:
            given = True
            for event in _arguments(source):
                if event is None or name:
                    yield event
                else:
                    waiting.append(event)
        elif key in OTHERS:
            yield from _skipped(source)
        else:
            raise BrokenCall
        yield from source.blanks()
        if (yield from source.expect(",", "}")) == "}":
            break
    if not name or (names is not None and not given):
        raise BrokenCall
    if not given:
        yield CallArguments(NO_ARGUMENTS)
    yield CallEnd()


def calls(source: Source, names: Names = None) -> Reading[None]:
    """Read a non-empty list of calls after its opening bracket."""
    while True:
        yield from source.blanks()
        yield from call(source, names)
        yield from source.blanks()
        if (yield from source.expect(",", "]")) == "]":
            return


def arguments(source: Source) -> Reading[None]:
    """Read arguments as a JSON object."""
    yield from source.blanks()
    if (yield from source.peek()) != "{":
        raise BrokenCall
    yield from written(json_text(source))


def tool_name(source: Source, names: Names) -> Waiting[str]:
    """Read a quoted name. Raises BrokenCall if no tool has that name."""
    name = yield from json_string(source)
    if not name or (names is not None and name not in names):
        raise BrokenCall
    return name


def _arguments(source: Source) -> Reading[None]:
    first = yield from source.peek()
    if first == '"':
        yield CallArguments(from_text((yield from json_string(source))))
    elif first == "n":
        yield from source.expect("null")
        yield CallArguments(NO_ARGUMENTS)
    else:
        yield from arguments(source)


def from_text(text: str) -> str:
    """Return arguments given as a string, spaced like json.dumps output. Raises BrokenCall if they aren't an object."""
    inner = Source()
    inner.add(text.strip() or NO_ARGUMENTS, final=True)
    pieces: list[str] = []

    def read() -> Reading[None]:
        yield from arguments(inner)
        if (yield from inner.peek()):
            raise BrokenCall

    for event in read():
        if isinstance(event, CallArguments):
            pieces.append(event.text)
    return "".join(pieces)


def _skipped(source: Source) -> Waiting[None]:
    for piece in json_text(source):
        if piece is None:
            yield None


def written(pieces: Iterable[str | None]) -> Reading[None]:
    for piece in pieces:
        yield None if piece is None else CallArguments(piece)
