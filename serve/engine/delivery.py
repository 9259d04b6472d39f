"""Delivers events from the engine thread to the event loop, where each request reads its own."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections import deque

from .events import Event, Sink

# like os.eventfd_write, but without releasing the GIL: otherwise the engine would have to reacquire it from the loop it
# has just woken, and wait until the loop has served every client (0.25 ms per step) instead of decoding
_wake_loop = ctypes.PyDLL(None).eventfd_write
_wake_loop.argtypes = [ctypes.c_int, ctypes.c_uint64]


class Timeout(Exception):
    """The request exceeded its time limit."""


class EventBridge:
    """Accepts a step's events from any thread and calls their sinks in the event loop."""

    def __init__(self) -> None:
        self._batches: deque[list[tuple[Sink, Event]]] = deque()
        self._signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call the sinks in this loop from now on."""
        loop.add_reader(self._signal, self._dispatch)

    def deliver(self, events: list[tuple[Sink, Event]]) -> None:
        """Queue events for the loop. Any thread may call it; it does not block."""
        self._batches.append(events)
        _wake_loop(self._signal, 1)

    def _dispatch(self) -> None:
        os.eventfd_read(self._signal)
        while self._batches:
            for sink, event in self._batches.popleft():
                sink(event)


class EventQueue:
    """The events of one request, for a single reader. Used in the event loop only.

    One timer serves the whole request: a timeout around every wait cost as much as all other work per token.
    """

    def __init__(self, deadline: float, pause_s: float | None) -> None:
        """`deadline` is on the loop's clock. After `pause_s` without an event, `take` returns an empty list once."""
        self._loop = asyncio.get_running_loop()
        self._deadline, self._pause_s, self._last = deadline, pause_s, self._loop.time()
        self._items: list[tuple[int, Event]] = []
        self._reader: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def put(self, index: int, event: Event) -> None:
        """Add an event of choice `index`."""
        self._items.append((index, event))
        self._last = self._loop.time()
        self._wake()

    async def take(self) -> list[tuple[int, Event]]:
        """Wait for events and return all of them; [] after a pause. Raises Timeout at the deadline."""
        if not self._items:
            if self._loop.time() >= self._deadline:
                raise Timeout
            if self._timer is None:
                self._timer = self._loop.call_at(self._due(), self._tick)
            self._reader = self._loop.create_future()
            await self._reader
        items, self._items = self._items, []
        return items

    def close(self) -> None:
        """Stop the timer. `take` must not be called afterwards."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> float:
        return self._deadline if self._pause_s is None else min(self._deadline, self._last + self._pause_s)

    def _tick(self) -> None:
        """Wake the reader if the pause or deadline has passed; otherwise events arrived after the timer was set."""
        now = self._loop.time()
        if now >= self._due():
            self._last = now
            self._wake()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._due(), self._tick)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
