"""A server in this process, with a pure Python model that echoes the last message, and injected errors."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.dialects.find import Found
from serve.engine.delivery import EventBridge
from serve.engine.engine import Engine
from serve.engine.step import FillerToken, ScheduledTokens, SchedulerLimits
from serve.engine.tokenizer import Constraints, Ending
from serve.http.app import create_app
from serve.http.auth import Keys
from serve.http.output_parsers import dialect_parsers
from serve.http.service import Service
from serve.metrics import Metrics
from serve.served import Served
from serve.settings import ServeSettings
from tests.support.fake_model import END, ByteTokenizer, EchoBackend

CONTEXT = 20_000
LIMITS = SchedulerLimits(slots=5, running=4, cells=5 * CONTEXT, per_slot=CONTEXT, shared=False)
BAD_GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"
LOGIN = b"<!doctype html><title>Sign in</title>"
CUT_AFTER = 12  # stream pieces that arrive


class LastMessage(ByteTokenizer):
    """Uses only the last message as the prompt, so that the echo repeats it."""

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, limit: int
    ) -> list[int]:
        return await super().encode_chat(messages[-1:], variables, ending, limit)


class SlowEcho(EchoBackend):
    """An echo that takes `pause_s` seconds per step."""

    pause_s = 0.0

    def decode(self, batch: Sequence[ScheduledTokens | FillerToken]) -> int:
        time.sleep(self.pause_s)
        return super().decode(batch)


class Proxy:
    """A proxy between browser and application: records requests, and breaks replies according to `fault`.

    html: an error page with 502; login: a page with 200; cut: the stream ends early but cleanly; lost: the connection
    breaks; error: an error object in the stream; silent: no reply; crlf: different line ends, and comments.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.fault = app, ""
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/chat/completions":
            await self.app(scope, receive, send)
        elif self.fault in ("html", "login"):
            await _page(send, *((502, BAD_GATEWAY) if self.fault == "html" else (200, LOGIN)))
        elif self.fault == "silent":
            await asyncio.sleep(60)
        else:
            await self.app(scope, self._kept(receive), self._broken(send) if self.fault else send)

    def _kept(self, receive: Receive) -> Receive:
        async def kept() -> Message:
            message = await receive()
            if body := message.get("body"):
                self.requests.append(json.loads(body))
            return message

        return kept

    def _broken(self, send: Send) -> Send:
        passed = 0

        async def broken(message: Message) -> None:
            nonlocal passed
            passed += 1
            body = message.get("body", b"")
            if self.fault == "crlf":
                message["body"] = body.replace(b"\n", b"\r\n").replace(b"data: ", b": hello\r\nid: 1\r\ndata:")
            elif passed == CUT_AFTER and self.fault == "lost":
                raise ConnectionResetError
            elif passed == CUT_AFTER:
                error = b'data: {"error":{"message":"out of cells","type":"server_error"}}\n\ndata: [DONE]\n\n'
                message = {**message, "body": error if self.fault == "error" else b"", "more_body": False}
            if passed <= CUT_AFTER or self.fault == "crlf":
                await send(message)

        return broken


async def _page(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": body})


class EchoServer:
    """`backend.pause_s` and `proxy.fault` may be set at any time; `start` after `stop` uses the same port again."""

    def __init__(
        self,
        keys: Sequence[str] = (),
        dialects: Found | None = None,
        tokenizer: LastMessage | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        dialects, tokenizer = dialects or Found(), tokenizer or LastMessage()
        self.backend, self.metrics, self.bridge = SlowEcho(), Metrics(), EventBridge()
        self.engine = Engine(self.backend, LIMITS, self.bridge.deliver, self.metrics)
        self.metrics.watch(self.engine.snapshot)
        served = Served("echo", tokenizer, frozenset({END}), (), CONTEXT, 0, "fp_0", {}, False, dialects, constraints)
        parsers = dialect_parsers(dialects, tokenizer.piece)
        service = Service(self.engine, served, CONTEXT, ServeSettings(keep_alive_s=1), self.metrics, parsers)
        log = structlog.wrap_logger(structlog.ReturnLogger())
        self.proxy = Proxy(create_app(service, Keys(keys), log))
        self.port = 0
        self.engine.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start listening in a separate thread."""
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(self.proxy, log_config=None, lifespan="off", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(listening,), daemon=True)
        self._thread.start()

    def _run(self, listening: socket.socket) -> None:
        async def run() -> None:
            self.bridge.open(asyncio.get_running_loop())
            await self._server.serve(sockets=[listening])

        asyncio.run(run())
        listening.close()

    def stop(self) -> None:
        """Close every connection and the port."""
        self._server.should_exit = True
        self._thread.join(10)


@contextmanager
def echoing(
    keys: Sequence[str] = (),
    dialects: Found | None = None,
    tokenizer: LastMessage | None = None,
    constraints: Constraints | None = None,
) -> Iterator[EchoServer]:
    """Run an echo server during the block; `dialects`: how it writes tool calls and reasoning."""
    server = EchoServer(keys, dialects, tokenizer, constraints)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.engine.close()
