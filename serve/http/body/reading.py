"""Reads bodies within a deadline and a total, and checks large ones outside the event loop, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from ...settings import ServeSettings
from ..errors import ApiError, busy
from ..message import Wire

Model = TypeVar("Model", bound=Wire)
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Parse(Protocol):
    """Checks a body against a schema. Raises ApiError."""

    def __call__(self, model: type[Model], body: bytes) -> Model: ...


# smaller bodies cost less than handing them to the thread
INLINE_BYTES = 16_384
# how many of the largest bodies may be in memory before they are checked
MOST_AT_ONCE = 64


class Bodies:
    """One thread checks them: several would take the interpreter's lock from the event loop in turns."""

    def __init__(self, settings: ServeSettings, parse: Parse) -> None:
        self.settings, self._parse = settings, parse
        self._thread = ThreadPoolExecutor(1, "bodies")
        self._turn = asyncio.Lock()
        self._held = 0  # bytes

    async def request(self, model: type[Model], http: Request) -> Model:
        """Read a body and check it. Raises ApiError: 400, 408, 413, 429; and ClientDisconnect."""
        async with self._read(http) as body:
            if len(body) <= INLINE_BYTES:
                return self._parse(model, body)
            return await self.run(http, self._parse, model, body)

    async def run(
        self, http: Request, work: Callable[Arguments, Result], *args: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Do work of a request in the thread, in turn. Raises ClientDisconnect where the client left before."""
        async with self._turn:
            if await http.is_disconnected():
                raise ClientDisconnect
            call = partial(work, *args, **named)
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    @asynccontextmanager
    async def _read(self, http: Request) -> AsyncIterator[bytes]:
        """Hold a body in memory as long as the block needs it."""
        most = self.settings.max_body_bytes
        declared = http.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        size, parts = 0, []
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                async for part in http.stream():
                    size += len(part)
                    self._held += len(part)
                    if size > most:
                        raise _too_large(most)
                    if self._held > MOST_AT_ONCE * most:
                        raise busy(1)
                    parts.append(part)
            yield b"".join(parts)
        except TimeoutError:
            raise _too_slow(self.settings.body_timeout_s) from None
        finally:
            self._held -= size


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {most} bytes.", code="request_too_large")


def _too_slow(seconds: float) -> ApiError:
    text = f"The request body did not arrive within {seconds:g} s."
    return ApiError(408, text, code="request_timeout", headers={"Connection": "close"})
