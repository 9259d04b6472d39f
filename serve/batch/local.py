"""A model in this process, through the server's application without a socket.

Requests use the same code as over HTTP, so every field has the same meaning.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from ..assembly import Assembled, Loaded, assemble
from ..engine.tokenizer import Ending
from ..settings import ModelSettings, ServeSettings
from .endpoints import EndpointError, Json, Refused, message_of
from .prompts import Prompt

SERVER = ("127.0.0.1", 80)
MAX_BODY_BYTES = 256 << 20
MAX_MESSAGES = 1 << 16
MAX_CHOICES = 128
# rows beyond those that run, so that their prompts are ready when a slot becomes free
AHEAD = 4
Message = MutableMapping[str, Any]


class LocalEndpoint:
    """Implements Endpoint with a loaded model, in the event loop of `running`."""

    def __init__(self, made: Assembled, loaded: Loaded) -> None:
        self._made, self._served, self._context = made, loaded.served, loaded.size.context
        self.parallel = loaded.size.running + AHEAD
        served = loaded.served
        artifact = served.record.get("artifact", {})
        self.identity: Mapping[str, Any] = {
            "model": artifact.get("sha256") or [served.name, served.fingerprint, served.created],
            "context": loaded.size.context,
            "special_tokens": served.record.get("special_tokens"),
            "template_kwargs": served.record.get("template_kwargs"),
        }

    async def ask(self, path: str, body: Json) -> Json:
        status, reply = await self._call(path, json.dumps({"model": "default", **body}).encode())
        content = json.loads(reply) if reply else {}
        if status == 200:
            return dict(content)
        if self._made.engine.broken:
            raise EndpointError(f"the engine failed: {self._made.engine.broken}")
        raise Refused(message_of(content, status))

    async def prompt_ids(self, prompt: Prompt, answer: str) -> list[int]:
        """Return the token ids of a prompt and the start of its answer. Raises ChatError and PromptTooLong."""
        tokenizer = self._served.tokenizer
        if prompt.text is not None:
            return await tokenizer.encode_prompt(prompt.text + answer, self._context)
        variables = {"tools": prompt.tools} if prompt.tools else {}
        turns = [*prompt.messages, {"role": "assistant", "content": answer}] if answer else prompt.messages
        ending: Ending = "continued" if answer else "opening"
        return await tokenizer.encode_chat(turns, variables, ending, self._context)

    async def _call(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Call the application like an ASGI server; return the status and the body."""
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status, reply = 500, bytearray()

        async def receive() -> Message:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()  # this client never disconnects; the application cancels the wait
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                reply.extend(message.get("body", b""))

        headers = {"host": SERVER[0], "content-type": "application/json", "content-length": str(len(body))}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": SERVER,
            "server": SERVER, "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await self._made.app(scope, receive, send)
        return status, bytes(reply)


@asynccontextmanager
async def running(loaded: Loaded, settings: ModelSettings, timeout_s: float) -> AsyncIterator[LocalEndpoint]:
    """Run an engine with the loaded model for the duration of the block; `timeout_s` limits each request."""
    shared = settings.model_dump(include=set(ModelSettings.model_fields))
    limits = ServeSettings(
        **shared, max_waiting=1 << 16, max_choices=MAX_CHOICES, max_messages=MAX_MESSAGES,
        max_body_bytes=MAX_BODY_BYTES, request_timeout_s=timeout_s, keep_alive_s=timeout_s,
    )  # fmt: skip
    made = assemble(loaded, limits, structlog.wrap_logger(structlog.ReturnLogger()))
    made.bridge.open(asyncio.get_running_loop())
    made.engine.start()
    try:
        yield LocalEndpoint(made, loaded)
    finally:
        made.engine.close()
