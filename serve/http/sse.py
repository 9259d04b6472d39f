"""Streams as server-sent events: OpenAI's framing, keep-alive comments, and immediate detection of disconnects.

sse-starlette is not used: on SIGTERM it ends streams that should finish, and it patches uvicorn on import.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Many
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..engine.delivery import EventQueue, Timeout
from ..engine.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob
from .errors import ApiError, ended
from .output_parsers import OutputParser, ParsedDelta
from .replies.logprobs import count
from .replies.writing import SliceEncoder, Writer, encode
from .response_objects import Reply, call_delta, counts, reason
from .schema import ChatRequest, CompletionRequest, StreamOptions

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
# marks the place of the text in a frame template; no name or id contains it
PLACEHOLDER = "\0"


def frame(value: Any, encoding: Callable[[Any], bytes] = encode) -> bytes:
    """Return one server-sent event."""
    return b"data: " + encoding(value) + b"\n\n"


async def chunks(
    reply: Reply,
    request: ChatRequest | CompletionRequest,
    queue: EventQueue,
    parsers: Many[OutputParser],
    prompts: Many[int],
    writer: Writer,
) -> AsyncIterator[bytes]:
    """Yield the framed chunks of a streamed request up to [DONE]; chunks available at the same time are joined.

    `prompts` are the prompts' token counts.
    """
    options, answers = request.stream_options or StreamOptions(), len(parsers)
    frames = Frames(reply, options, parsers, sum(prompts), scored=bool(reply.echoes) and request.logprobs is not None)
    ends: dict[int, Finished] = {}
    if reply.chat:
        yield b"".join(frames.opening(index) for index in range(answers))
    elif reply.echoes and request.logprobs is None:
        yield b"".join(frames.echo(prompt, None) for prompt in range(len(prompts)))
    try:
        while len(ends) < answers:
            items = await queue.take()
            if not items:
                yield KEEP_ALIVE
                continue
            fault = next((event for _, event in items if isinstance(event, Finished) and event.error), None)
            ends |= {index: event for index, event in items if isinstance(event, Finished)}
            yield await writer.make(partial(frames.of_all, items), sum(frames.size(event) for _, event in items))
            if fault is not None:
                yield frame(ended(fault.error or "", fault.refused).body())
                break
        else:
            if options.include_usage:
                yield frame(reply.closing([ends[i] for i in range(answers)], len(prompts), frames.reasoning_tokens))
    except Timeout:
        yield frame(timed_out().body())
    yield DONE


def timed_out() -> ApiError:
    """The request exceeded request_timeout_s."""
    return ApiError(504, "The request exceeded the server's time limit.", kind="server_error", code="timeout")


class Frames:
    """Frames the chunks of one request; each choice has its own parser. `prompt_tokens` is the total of all prompts.

    If usage is requested, every chunk contains the field: null until the last chunk, or the usage so far. Most chunks
    contain only text, so their frame is built once per choice and the text inserted. With `scored`, each prompt's
    log-probabilities come first, with the prompt's first choice.
    """

    def __init__(
        self,
        reply: Reply,
        options: StreamOptions,
        parsers: Many[OutputParser],
        prompt_tokens: int,
        scored: bool = False,
    ) -> None:
        self.reply, self.options, self.prompt_tokens, self._parsers = reply, options, prompt_tokens, parsers
        # characters (the offset of the next text) and tokens so far
        self._lengths, self._tokens = [0] * len(parsers), [0] * len(parsers)
        self._reasoning = [0] * len(parsers)  # tokens up to the end of the reasoning
        # by choice: events held back until the log-probabilities of its prompt arrive
        self._held: dict[int, list[Event]] = {index: [] for index in range(len(parsers))} if scored else {}
        self._around: dict[int, tuple[bytes, bytes]] = {}  # by choice: the frame before and after the text

    @property
    def reasoning_tokens(self) -> int:
        """The reasoning tokens of all choices so far."""
        return sum(self._reasoning)

    def opening(self, index: int) -> bytes:
        """Return the first frame of a chat choice."""
        return self._frame(self.reply.opening(index))

    def size(self, event: Event) -> int:
        """Return how many log-probabilities the frames of an event contain."""
        return count(event.logprobs) * (self.reply.each if isinstance(event, PromptLogprobs) else 1)

    def of_all(self, items: Many[tuple[int, Event]]) -> bytes:
        """Return the frames of events, each paired with its choice's index."""
        return b"".join([self.of(index, event) for index, event in items])

    def of(self, index: int, event: Event) -> bytes:
        """Return the frames of one event; an end with an error yields only its last text."""
        if isinstance(event, PromptLogprobs):
            return self.echo(index // self.reply.each, event.logprobs)
        if index in self._held:
            self._held[index].append(event)
            return b""
        self._tokens[index] = event.completion_tokens
        parsed = self._parsers[index].feed(event.text, final=isinstance(event, Finished))
        text = parsed.content
        if parsed.reasoning or parsed.calls:
            return self._structured(index, event, parsed)
        offset, logprobs = self._lengths[index], event.logprobs
        self._lengths[index] += len(text)
        if isinstance(event, Delta) and not logprobs and not self.options.continuous_usage_stats:
            return self._plain(index, text) if text else b""
        finish = self._finish(index, event)
        if not self.reply.chat:
            return self._chunk(index, text, logprobs, offset, finish) if text or logprobs or finish else b""
        last = self._frame(self.reply.chunk(index, {}, None, finish)) if finish else b""
        return (self._chunk(index, text, logprobs, offset, None) if text or logprobs else b"") + last

    def _finish(self, index: int, event: Event) -> str | None:
        if not isinstance(event, Finished) or event.error is not None:
            return None
        return reason(event.reason, self._parsers[index].called)

    def _structured(self, index: int, event: Delta | Finished, parsed: ParsedDelta) -> bytes:
        """Return the frames of reasoning, content and calls, one each; the first contains the log-probabilities."""
        deltas: list[dict[str, Any]] = [{"tool_calls": [call_delta(call)]} for call in parsed.calls]
        deltas = [{"content": parsed.content}, *deltas] if parsed.content else deltas
        deltas = [{"reasoning_content": parsed.reasoning}, *deltas] if parsed.reasoning else deltas
        self._lengths[index] += len(parsed.content)
        if parsed.reasoning:
            self._reasoning[index] = event.completion_tokens
        scores = [self.reply.chat_logprobs(event.logprobs), *[None] * len(deltas)]
        frames = [self._frame(self.reply.chunk(index, d, s, None)) for d, s in zip(deltas, scores, strict=False)]
        if finish := self._finish(index, event):
            frames.append(self._frame(self.reply.chunk(index, {}, None, finish)))
        return b"".join(frames)

    def echo(self, prompt: int, scores: list[TokenLogprob] | None) -> bytes:
        """Return the frames of an echoed prompt, one per choice, and the frames held back for them."""
        text, logprobs = self.reply.echo(prompt, scores)
        frames, each, encoding = [], self.reply.each, SliceEncoder().encode
        for index in range(prompt * each, (prompt + 1) * each):
            self._lengths[index] += len(text)
            frames.append(self._frame(self.reply.text_chunk(index, text, logprobs, None), encoding))
            frames += [self.of(index, event) for event in self._held.pop(index, ())]
        return b"".join(frames)

    def _plain(self, index: int, text: str) -> bytes:
        around = self._around.get(index)
        if around is None:
            before, _, after = self._chunk(index, PLACEHOLDER, [], 0, None).partition(encode(PLACEHOLDER))
            around = self._around[index] = before, after
        return around[0] + encode(text) + around[1]

    def _chunk(self, index: int, text: str, logprobs: list[TokenLogprob], offset: int, finish: str | None) -> bytes:
        reply = self.reply
        if reply.chat:
            return self._frame(reply.chunk(index, {"content": text}, reply.chat_logprobs(logprobs), finish))
        return self._frame(reply.text_chunk(index, text, reply.text_logprobs(logprobs, offset), finish))

    def _frame(self, chunk: dict[str, Any], encoding: Callable[[Any], bytes] = encode) -> bytes:
        if self.options.continuous_usage_stats:
            return frame({**chunk, "usage": counts(self.prompt_tokens, sum(self._tokens))}, encoding)
        return frame({**chunk, "usage": None} if self.options.include_usage else chunk, encoding)


class EventStream(Response):
    """Sends framed chunks until they end or the client disconnects, then calls `on_close`."""

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
    """Wait until the client has disconnected. The request body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
