"""A reply's JSON, written so that the event loop goes on: the large ones in a thread, one at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

# log-probabilities that are written within the event loop: one or two milliseconds
FEW = 1024
# entries of a list that are encoded in one call, in which no other thread runs
SLICE = 256
# reply, choices, choice, log-probabilities: below these are the lists that grow with prompts and answers
LONG_LISTS_AT = 4
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """Return JSON without spaces, in UTF-8, with no character that some clients take for the end of a line.

    Server-sent events end at \\n and \\r, which JSON escapes; readers on str.splitlines (httpx's iter_lines) cut at
    these too.
    """
    text = _encoder.encode(value)
    for mark, escape in _LINE_ENDS:
        text = text.replace(mark, escape)
    return text.encode("utf-8", "replace")


class Joined(tuple[list[Any], ...]):
    """Lists whose entries are one list of the reply."""


class SliceEncoder:
    """Encodes replies as `encode` does, but long lists in slices, between which other threads can run.

    A long list that stands in several places is encoded once.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], bytes]] = {}  # with the list itself: so its id stays its own

    def encode(self, value: Any) -> bytes:
        """Return JSON."""
        return b"".join(self._parts(value, 0))

    def _parts(self, value: Any, depth: int) -> Iterator[bytes]:
        if depth == LONG_LISTS_AT and isinstance(value, list | Joined):
            lists = value if isinstance(value, Joined) else [value]
            yield b"[" + b",".join(self._entries(part) for part in lists if part) + b"]"
        elif depth < LONG_LISTS_AT and isinstance(value, dict) and value:
            for number, (key, entry) in enumerate(value.items()):
                yield (b"," if number else b"{") + encode(key) + b":"
                yield from self._parts(entry, depth + 1)
            yield b"}"
        elif depth < LONG_LISTS_AT and isinstance(value, list) and value:
            for number, entry in enumerate(value):
                yield b"," if number else b"["
                yield from self._parts(entry, depth + 1)
            yield b"]"
        else:
            yield encode(value)

    def _entries(self, values: list[Any]) -> bytes:
        if len(values) <= SLICE:
            return encode(values)[1:-1]
        if id(values) not in self._known:
            slices = (values[start : start + SLICE] for start in range(0, len(values), SLICE))
            self._known[id(values)] = values, b",".join(encode(part)[1:-1] for part in slices)
        return self._known[id(values)][1]


class Writer:
    """Makes replies: small ones at once, large ones in a thread. One for all requests."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # two threads would take the interpreter's lock from the loop twice as often

    async def make(self, making: Callable[[], bytes], logprobs: int) -> bytes:
        """Return what `making` returns; `logprobs` is how many log-probabilities it writes."""
        if logprobs <= FEW:
            return making()
        async with self._turn:
            return await asyncio.to_thread(making)
