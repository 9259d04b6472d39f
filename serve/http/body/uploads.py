"""Bodies being received: each has a deadline and a minimum rate, and all share a memory limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from ..errors import ApiError, busy

# memory limit for all bodies together, in multiples of the maximum body size
MAX_FULL_BODIES = 64
# smaller bodies don't count: the connection limit bounds them
SMALL_BYTES = 16_384
# a client may pause this long; afterwards it must keep the minimum rate
GRACE_S, MIN_RATE = 5.0, 4096  # bytes per second


@dataclass(eq=False)
class Upload:
    """A partly received body. `held` bytes count towards the memory limit. Times are on the event loop's clock."""

    timeout_s: float
    timeout: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    body: bytearray = field(default_factory=bytearray)
    held: int = 0
    evicted: bool = False

    def start(self) -> None:
        """Start the deadlines; must be called inside the timeout."""
        now = asyncio.get_running_loop().time()
        self._end, self._paid_until = now + self.timeout_s, now + GRACE_S
        self.timeout.reschedule(min(self._end, self._paid_until))

    def add(self, part: bytes) -> None:
        """Add a chunk and extend the deadline by the time it takes at the minimum rate."""
        self.body += part
        latest = asyncio.get_running_loop().time() + GRACE_S
        self._paid_until = min(self._paid_until + len(part) / MIN_RATE, latest)
        self.timeout.reschedule(min(self._end, self._paid_until))

    def evict(self) -> None:
        """Cancel the upload in the event loop's next iteration."""
        self.evicted = True
        self.body.clear()
        self.timeout.reschedule(0)

    def timeout_error(self) -> ApiError:
        """Return the error for the expired deadline."""
        text = f"The request body did not arrive within {self.timeout_s:g} s."
        if self._paid_until < self._end:
            text = f"The request body arrived too slowly: at least {MIN_RATE} bytes per second are required."
        return ApiError(408, text, code="request_timeout", headers={"Connection": "close"})


class Uploads:
    """All bodies in memory. `max_bytes` and `timeout_s` limit each of them."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._held = 0  # bytes of bodies above SMALL_BYTES
        self._incomplete: dict[Upload, None] = {}  # still being received, oldest first

    @asynccontextmanager
    async def read(self, http: Request) -> AsyncIterator[bytes]:
        """Receive a body and hold it for the duration of the block. Raises ApiError 408, 413, 429; ClientDisconnect."""
        declared = http.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_large()
        upload = Upload(self._timeout_s)
        try:
            yield await self._receive(http, upload)
        finally:
            self._release(upload)

    async def _receive(self, http: Request, upload: Upload) -> bytes:
        try:
            async with upload.timeout:
                upload.start()
                async for part in http.stream():
                    if upload.evicted:
                        raise busy(1)
                    upload.add(part)
                    if len(upload.body) > self._max_bytes:
                        raise self._too_large()
                    if len(upload.body) > SMALL_BYTES:
                        self._enforce_limit(upload)
        except TimeoutError:
            raise (busy(1) if upload.evicted else upload.timeout_error()) from None
        self._incomplete.pop(upload, None)
        body = bytes(upload.body)
        upload.body.clear()
        return body

    def _enforce_limit(self, upload: Upload) -> None:
        """Count received bytes; above the memory limit, evict the oldest upload. Raises ApiError 429."""
        self._incomplete.setdefault(upload)
        self._held += len(upload.body) - upload.held
        upload.held = len(upload.body)
        while self._held > MAX_FULL_BODIES * self._max_bytes:
            oldest = next(iter(self._incomplete))
            self._release(oldest)
            if oldest is upload:
                raise busy(1)
            oldest.evict()

    def _release(self, upload: Upload) -> None:
        self._incomplete.pop(upload, None)
        self._held -= upload.held
        upload.held = 0

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request body is larger than {self._max_bytes} bytes.", code="request_too_large")
