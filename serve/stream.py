"""Events to server-sent events: OpenAI's framing, keep-alive comments, and a client that goes away is noticed at once.

sse-starlette is not used: on SIGTERM it ends every stream, where ours are to finish, and it patches uvicorn on import.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve.errors import ApiError, failed
from serve.replies import Reply
from serve.schema import ChatRequest, CompletionRequest
from serve.sequence import Delta, Event, Finished

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
Inbox = asyncio.Queue[tuple[int, Event]]


class Timeout(Exception):
    """The request took longer than it may."""


def frame(value: Any) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


async def events(inbox: Inbox, deadline: float, pause_s: float | None) -> AsyncIterator[tuple[int, Event] | None]:
    """Yield events as they come, None after a silent `pause_s`. Raises Timeout at the deadline (the loop's clock)."""
    loop = asyncio.get_running_loop()
    while True:
        if not inbox.empty():
            yield inbox.get_nowait()
            continue
        left = deadline - loop.time()
        if left <= 0:
            raise Timeout
        try:
            async with asyncio.timeout(left if pause_s is None else min(left, pause_s)):
                item: tuple[int, Event] | None = await inbox.get()
        except TimeoutError:
            item = None
        yield item


async def chunks(
    reply: Reply,
    request: ChatRequest | CompletionRequest,
    inbox: Inbox,
    answers: int,
    prompts: int,
    deadline: float,
    pause_s: float,
) -> AsyncIterator[bytes]:
    """Yield the framed chunks of a streamed request, to the closing [DONE]."""
    usage = bool(request.stream_options and request.stream_options.include_usage)
    extra: dict[str, Any] = {"usage": None} if usage else {}
    ends: dict[int, Finished] = {}
    lengths = [0] * answers
    if reply.chat:
        for index in range(answers):
            yield frame({**reply.opening(index), **extra})
    try:
        async for item in events(inbox, deadline, pause_s):
            if item is None:
                yield KEEP_ALIVE
                continue
            index, event = item
            for chunk in _chunks_of(reply, index, event, lengths):
                yield frame({**chunk, **extra})
            if isinstance(event, Finished):
                if event.error is not None:
                    yield frame(failed(event.error).body())
                    break
                ends[index] = event
                if len(ends) == answers:
                    if usage:
                        yield frame(reply.closing([ends[i] for i in range(answers)], prompts))
                    break
    except Timeout:
        yield frame(timed_out().body())
    yield DONE


def timed_out() -> ApiError:
    """The request took longer than it may."""
    return ApiError(504, "The request took longer than this server allows.", kind="server_error", code="timeout")


def _chunks_of(reply: Reply, index: int, event: Event, lengths: list[int]) -> list[dict[str, Any]]:
    found = []
    text, finish = event.text, None
    if isinstance(event, Finished) and event.error is None:
        finish = "length" if event.reason == "length" else "stop"
    if reply.chat:
        logprobs = reply.chat_logprobs(event.logprobs)
        if text or logprobs:
            found.append(reply.chunk(index, {"content": text}, logprobs, None))
        if finish:
            found.append(reply.chunk(index, {}, None, finish))
    elif text or event.logprobs or finish:
        found.append(reply.text_chunk(index, text, reply.text_logprobs(event.logprobs, lengths[index]), finish))
    lengths[index] += len(text) if isinstance(event, Delta) else 0
    return found


class EventStream(Response):
    """Sends framed chunks until they end or the client goes away; then `on_close` is called."""

    def __init__(self, content: AsyncIterator[bytes], on_close: Callable[[], None]) -> None:
        super().__init__()
        self.content, self.on_close = content, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(until_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.on_close()
            leaving.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled() and (error := sending.exception()):
            raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async for data in self.content:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_disconnect(receive: Receive) -> None:
    """Return once the client has gone; the request's body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
