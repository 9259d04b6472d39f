"""Plain JSON: the answer is one or more objects with name and arguments, or a list of them."""

from __future__ import annotations

from .. import objects
from ..dialect import Dialect, Names
from ..events import Reading
from ..source import Source


def _calls(source: Source, marker: str, names: Names) -> Reading[None]:
    if (yield from source.starts("[")):
        yield from objects.calls(source, names)
        return
    while (yield from source.peek()) == "{":
        yield from objects.call(source, names)
        yield from source.blanks()


PLAIN_JSON = Dialect("json", opens=("{", "["), calls=_calls, sign='"arguments"')
