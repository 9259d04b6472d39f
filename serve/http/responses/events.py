"""The typed events of a streamed response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count

from ...engine.delivery import EventQueue, Timeout
from ...engine.events import Finished, PromptLogprobs
from ..output_parsers import CallDelta, OutputParser
from ..replies.writing import encode
from ..sse import KEEP_ALIVE, timed_out
from .items import Json
from .objects import ResponseObject, call_item, identity, message_item, reasoning_item, text_part, usage_of

Named = tuple[str, Json]  # an event's type and fields


@dataclass
class _Open:
    """The item that is being written: its kind, id and text so far."""

    kind: str
    key: str
    index: int
    text: str = ""
    call: CallDelta = field(default_factory=lambda: CallDelta(0))


class ResponseEvents:
    """Turns one choice's parsed text into events."""

    def __init__(self, response: ResponseObject, parser: OutputParser) -> None:
        self._response, self._parser = response, parser
        self._output: list[Json] = []
        self._open: _Open | None = None
        self._reasoning_tokens = 0

    def opening(self) -> Iterator[Named]:
        """Yield the first events."""
        body = self._response.body("in_progress", [])
        yield "response.created", {"response": body}
        yield "response.in_progress", {"response": body}

    def of(self, text: str, tokens: int, end: Finished | None) -> Iterator[Named]:
        """Yield the events of new text; `tokens` is the number of tokens so far, `end` how the answer ended."""
        before = self._parser.reasoned
        parsed = self._parser.feed(text, final=end is not None)
        if self._parser.reasoned != before:
            self._reasoning_tokens = tokens
        if parsed.reasoning:
            yield from self._write("reasoning", parsed.reasoning)
        if parsed.content:
            yield from self._write("message", parsed.content)
        for call in parsed.calls:
            if call.id:
                yield from self._close()
                yield from self._begin("function_call", call)
            yield from self._write("function_call", call.arguments)
        if end is not None and end.error is None:
            yield from self._finish(end)

    def broken(self, message: str, refused: bool = False) -> Iterator[Named]:
        """Yield the last event of a response that failed; `refused`: the request is at fault."""
        error = {"code": "invalid_prompt" if refused else "server_error", "message": message}
        yield "response.failed", {"response": self._response.body("failed", self._output, error=error)}

    def _finish(self, end: Finished) -> Iterator[Named]:
        cut = end.reason == "length"
        if self._open is None and not self._output:
            yield from self._begin("message")
        yield from self._close("incomplete" if cut else "completed")
        status = "incomplete" if cut else "completed"
        body = self._response.body(status, self._output, usage_of(end, self._reasoning_tokens))
        yield f"response.{status}", {"response": body}

    def _write(self, kind: str, text: str) -> Iterator[Named]:
        if self._open is None or self._open.kind != kind:
            yield from self._close()
            yield from self._begin(kind)
        assert self._open is not None
        self._open.text += text
        if text:
            where = self._where() if kind == "function_call" else {**self._where(), "content_index": 0}
            extra: Json = {"logprobs": []} if kind == "message" else {}
            yield f"response.{DELTAS[kind]}.delta", {**where, "delta": text, **extra}

    def _begin(self, kind: str, call: CallDelta | None = None) -> Iterator[Named]:
        self._open = _Open(kind, identity(PREFIXES[kind]), len(self._output))
        self._open.call = CallDelta(0, "", call.id, call.name) if call else self._open.call
        item = self._item("in_progress")
        if kind == "function_call":
            yield "response.output_item.added", {"output_index": self._open.index, "item": item}
            return
        yield "response.output_item.added", {"output_index": self._open.index, "item": {**item, "content": []}}
        yield "response.content_part.added", {**self._where(), "content_index": 0, "part": self._part()}

    def _close(self, status: str = "completed") -> Iterator[Named]:
        """Yield the end of the open item."""
        item = self._open
        if item is None:
            return
        done = f"response.{DELTAS[item.kind]}.done"
        if item.kind == "function_call":
            yield done, {**self._where(), "name": item.call.name, "arguments": item.text}
        else:
            where = {**self._where(), "content_index": 0}
            extra: Json = {"logprobs": []} if item.kind == "message" else {}
            yield done, {**where, "text": item.text, **extra}
            yield "response.content_part.done", {**where, "part": self._part()}
        whole = self._item(status)
        yield "response.output_item.done", {"output_index": item.index, "item": whole}
        self._output.append(whole)
        self._open = None

    def _where(self) -> Json:
        assert self._open is not None
        return {"item_id": self._open.key, "output_index": self._open.index}

    def _item(self, status: str) -> Json:
        item = self._open
        assert item is not None
        if item.kind == "function_call":
            return call_item(CallDelta(0, item.text, item.call.id, item.call.name), item.key, status)
        return (reasoning_item if item.kind == "reasoning" else message_item)(item.text, item.key, status)

    def _part(self) -> Json:
        item = self._open
        assert item is not None
        return {"type": "reasoning_text", "text": item.text} if item.kind == "reasoning" else text_part(item.text)


DELTAS = {"reasoning": "reasoning_text", "message": "output_text", "function_call": "function_call_arguments"}
PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


async def stream(events: ResponseEvents, queue: EventQueue) -> AsyncIterator[bytes]:
    """Yield the framed events of a streamed response; events available at the same time are joined."""
    numbers = count()

    def framed(found: Iterator[Named]) -> bytes:
        return b"".join(
            b"event: %b\ndata: %b\n\n"
            % (kind.encode(), encode({"type": kind, **fields, "sequence_number": next(numbers)}))
            for kind, fields in found
        )

    yield framed(events.opening())
    try:
        ended = False
        while not ended:
            items = await queue.take()
            if not items:
                yield KEEP_ALIVE
            for _, event in items:
                if isinstance(event, PromptLogprobs):
                    continue
                end = event if isinstance(event, Finished) else None
                yield framed(events.of(event.text, event.completion_tokens, end))
                if end is not None and end.error is not None:
                    yield framed(events.broken(end.error, end.refused))
                ended = ended or end is not None
    except Timeout:
        yield framed(events.broken(timed_out().message))
