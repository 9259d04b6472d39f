"""Encodes replies as JSON without blocking the event loop: large ones in a thread, one at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

# up to this many log-probabilities are encoded in the event loop, which takes one or two milliseconds
MAX_INLINE_LOGPROBS = 1024
# list entries encoded per call, during which no other thread can run
SLICE_ENTRIES = 256
# depth (reply, choices, choice, logprobs) of the lists that grow with prompts and completions
LONG_LISTS_AT = 4
_LINE_ENDS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """Return compact UTF-8 JSON, without characters that some clients treat as line breaks.

    Lines of server-sent events end at \\n and \\r, which JSON escapes. Clients that use str.splitlines (httpx's
    iter_lines) also split at the characters escaped here.
    """
    text = _encoder.encode(value)
    for mark, escape in _LINE_ENDS:
        text = text.replace(mark, escape)
    return text.encode("utf-8", "replace")


class Joined(tuple[list[Any], ...]):
    """Several lists that are encoded as one."""


class SliceEncoder:
    """Encodes replies like `encode`, but splits long lists into slices, so that other threads can run in between.

    A long list that occurs several times is encoded once.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], bytes]] = {}  # keeps the list alive, so that its id is not reused

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
        if len(values) <= SLICE_ENTRIES:
            return encode(values)[1:-1]
        if id(values) not in self._known:
            slices = (values[start : start + SLICE_ENTRIES] for start in range(0, len(values), SLICE_ENTRIES))
            self._known[id(values)] = values, b",".join(encode(part)[1:-1] for part in slices)
        return self._known[id(values)][1]


class Writer:
    """Encodes replies: small ones at once, large ones in a thread. Shared by all requests."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # two threads would compete with the loop for the GIL twice as often

    async def make(self, making: Callable[[], bytes], logprobs: int) -> bytes:
        """Return the result of `making`, which encodes `logprobs` log-probabilities."""
        if logprobs <= MAX_INLINE_LOGPROBS:
            return making()
        async with self._turn:
            return await asyncio.to_thread(making)
