"""Reads and validates bodies; large ones outside the event loop, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from ...settings import ServeSettings
from .uploads import SMALL_BYTES, Uploads
from .wire import Wire

Model = TypeVar("Model", bound=Wire)
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Parse(Protocol):
    """Validates a body against a schema. Raises ApiError."""

    def __call__(self, model: type[Model], body: bytes) -> Model: ...


class Bodies:
    """Reads and validates request bodies in a single thread: more would compete with the event loop for the GIL."""

    def __init__(self, settings: ServeSettings, parse: Parse) -> None:
        self._parse = parse
        self._thread = ThreadPoolExecutor(1, "bodies")
        self._turn = asyncio.Lock()
        self._uploads = Uploads(settings.max_body_bytes, settings.body_timeout_s)

    async def request(self, model: type[Model], http: Request) -> Model:
        """Read and validate a body. Raises ApiError 400, 408, 413 or 429, and ClientDisconnect."""
        async with self._uploads.read(http) as body:
            if len(body) <= SMALL_BYTES:  # cheaper than handing it to the thread
                return self._parse(model, body)
            return await self.run(http, self._parse, model, body)

    async def run(
        self, http: Request, work: Callable[Arguments, Result], *args: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Run a request's work in the thread once it is free. Raises ClientDisconnect if the client leaves first."""
        async with self._turn:
            if await http.is_disconnected():
                raise ClientDisconnect
            call = partial(work, *args, **named)
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
