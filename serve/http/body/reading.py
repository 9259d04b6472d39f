"""Reads bodies and checks them: large ones outside the event loop, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from ...settings import ServeSettings
from ..message import Wire
from .uploads import SMALL_BYTES, Uploads

Model = TypeVar("Model", bound=Wire)
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Parse(Protocol):
    """Checks a body against a schema. Raises ApiError."""

    def __call__(self, model: type[Model], body: bytes) -> Model: ...


class Bodies:
    """One thread checks them: several would take the interpreter's lock from the event loop in turns."""

    def __init__(self, settings: ServeSettings, parse: Parse) -> None:
        self._parse = parse
        self._thread = ThreadPoolExecutor(1, "bodies")
        self._turn = asyncio.Lock()
        self._uploads = Uploads(settings.max_body_bytes, settings.body_timeout_s)

    async def request(self, model: type[Model], http: Request) -> Model:
        """Read a body and check it. Raises ApiError: 400, 408, 413, 429; and ClientDisconnect."""
        async with self._uploads.read(http) as body:
            if len(body) <= SMALL_BYTES:  # it costs less than handing it to the thread
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
