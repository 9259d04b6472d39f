"""Bodies on their way: each has a deadline and a least rate, and together they have a bound of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from ..errors import ApiError, busy

# how many of the largest bodies may be in memory before they are checked
MOST_AT_ONCE = 64
# bodies up to this size are always taken: the limit of connections bounds them
SMALL_BYTES = 16_384
# a client may pause for so long; one that is slower than this for longer is refused
PATIENCE_S, LEAST_RATE = 5.0, 4096  # bytes a second


@dataclass(eq=False)
class Upload:
    """A body of which parts have arrived. `held`: bytes that count towards the total. Times are the event loop's."""

    most_s: float
    timeout: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    body: bytearray = field(default_factory=bytearray)
    held: int = 0
    evicted: bool = False

    def start(self) -> None:
        """Begin to wait; call it within the timeout."""
        now = asyncio.get_running_loop().time()
        self._end, self._paid_until = now + self.most_s, now + PATIENCE_S
        self.timeout.reschedule(min(self._end, self._paid_until))

    def add(self, part: bytes) -> None:
        """Add a part, and extend the deadline by the time that it may take at the least rate."""
        self.body += part
        latest = asyncio.get_running_loop().time() + PATIENCE_S
        self._paid_until = min(self._paid_until + len(part) / LEAST_RATE, latest)
        self.timeout.reschedule(min(self._end, self._paid_until))

    def evict(self) -> None:
        """End it at the next step of the event loop."""
        self.evicted = True
        self.body.clear()
        self.timeout.reschedule(0)

    def late(self) -> ApiError:
        """Say which deadline has passed."""
        text = f"The request body did not arrive within {self.most_s:g} s."
        if self._paid_until < self._end:
            text = f"The request body arrived too slowly: at least {LEAST_RATE} bytes per second are required."
        return ApiError(408, text, code="request_timeout", headers={"Connection": "close"})


class Uploads:
    """All bodies in memory. `most`: bytes of one; `most_s`: how long one may take."""

    def __init__(self, most: int, most_s: float) -> None:
        self._most, self._most_s = most, most_s
        self._held = 0  # bytes of those that are not small
        self._incomplete: dict[Upload, None] = {}  # likewise, the oldest first

    @asynccontextmanager
    async def read(self, http: Request) -> AsyncIterator[bytes]:
        """Hold a body in memory as long as the block needs it. Raises ApiError 408, 413, 429; ClientDisconnect."""
        declared = http.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._most:
            raise self._too_large()
        upload = Upload(self._most_s)
        try:
            yield await self._receive(http, upload)
        finally:
            self._forget(upload)

    async def _receive(self, http: Request, upload: Upload) -> bytes:
        try:
            async with upload.timeout:
                upload.start()
                async for part in http.stream():
                    if upload.evicted:
                        raise busy(1)
                    upload.add(part)
                    if len(upload.body) > self._most:
                        raise self._too_large()
                    if len(upload.body) > SMALL_BYTES:
                        self._make_room(upload)
        except TimeoutError:
            raise (busy(1) if upload.evicted else upload.late()) from None
        self._incomplete.pop(upload, None)
        body = bytes(upload.body)
        upload.body.clear()
        return body

    def _make_room(self, upload: Upload) -> None:
        """Count what has arrived; where it is too much in all, end the oldest. Raises ApiError 429."""
        self._incomplete.setdefault(upload)
        self._held += len(upload.body) - upload.held
        upload.held = len(upload.body)
        while self._held > MOST_AT_ONCE * self._most:
            oldest = next(iter(self._incomplete))
            self._forget(oldest)
            if oldest is upload:
                raise busy(1)
            oldest.evict()

    def _forget(self, upload: Upload) -> None:
        self._incomplete.pop(upload, None)
        self._held -= upload.held
        upload.held = 0

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request body is larger than {self._most} bytes.", code="request_too_large")
