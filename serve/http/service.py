"""Shared by the routes: engine, model and settings, and the path from a validated request to its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from collections.abc import Sequence as Many
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from burnish.chat import ChatError

from ..decoding.constraints.thought import ThoughtBudget
from ..engine.delivery import EventQueue, Timeout
from ..engine.engine import Draining, Engine
from ..engine.events import Delta, Finished, PromptLogprobs, TokenLogprob
from ..engine.scheduler import QueueFull
from ..engine.sequence import Sequence
from ..engine.tokenizer import PromptTooLong, TextBusy, TextUnavailable
from ..metrics import Metrics
from ..served import Served
from ..settings import ServeSettings
from . import requests
from .body.constraint import constraint_of
from .body.reading import Bodies
from .body.thoughts import PARAM as THOUGHTS
from .body.thoughts import budget_of
from .errors import CLIENT_DISCONNECTED, ApiError, busy, draining, ended, out_of_resources, too_long
from .output_parsers import OutputParser, ParserFactory, opens_thought, plain_text
from .replies import logprobs
from .replies.writing import SliceEncoder, Writer
from .response_objects import Answer, Echo, Reply
from .schema import ChatRequest, CompletionRequest
from .sse import EventStream, chunks, timed_out, until_disconnect

Made = TypeVar("Made")
# prompts prepared faster than this are not worth watching for a client disconnect
WATCH_AFTER_S = 0.05


@dataclass(frozen=True)
class Running:
    """The sequences of a request, one for each choice, with the queue of their events and the parsers of their text."""

    sequences: list[Sequence]
    queue: EventQueue
    parsers: list[OutputParser]


class Service:
    """`context` limits the tokens of prompt and completion; `parser` creates the output parser of each choice."""

    def __init__(
        self,
        engine: Engine,
        served: Served,
        context: int,
        settings: ServeSettings,
        metrics: Metrics,
        parser: ParserFactory = plain_text,
    ) -> None:
        self.engine, self.served, self.context = engine, served, context
        self.settings, self.metrics, self.parser = settings, metrics, parser
        self.writer = Writer()
        self.bodies = Bodies(settings, requests.parse)

    async def prepared(self, http: Request, making: Coroutine[Any, Any, Made], param: str) -> Made:
        """Await the rendering and tokenizing of a prompt; cancel it if the client disconnects.

        `param` names the prompt in errors. Raises ApiError 400 if it is rejected, 429 if all workers are busy, and 503
        if no worker can be started.
        """
        task = asyncio.create_task(making)
        try:
            done, _ = await asyncio.wait({task}, timeout=WATCH_AFTER_S)
            if not done:
                await self._unless_left(http, task)
            return await task
        except PromptTooLong as error:
            raise too_long(error.tokens, self.context, param, least=True) from None
        except ChatError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from None
        except TextBusy:
            raise busy(1) from None
        except TextUnavailable:
            raise out_of_resources() from None
        finally:
            task.cancel()

    async def _unless_left(self, http: Request, task: asyncio.Task[Made]) -> None:
        """Wait for a task or a client disconnect. Raises ApiError 499 for the latter, seen only in log and metrics."""
        leaving = asyncio.create_task(until_disconnect(http.receive))
        try:
            await asyncio.wait({leaving, task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ApiError(499, "The client closed the connection.", code=CLIENT_DISCONNECTED)
        finally:
            leaving.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await leaving

    async def answer(
        self,
        http: Request,
        request: ChatRequest | CompletionRequest,
        prompts: Many[list[int]],
        echoes: Many[Echo] = (),
    ) -> Response:
        """Queue the sequences of a request and reply, streamed or whole; `echoes` are the prompts to echo."""
        running = await self.begin(http, request, prompts)
        reply = Reply(self.served, isinstance(request, ChatRequest), echoes, each=request.n or 1)
        if request.stream:
            counts = [len(prompt) for prompt in prompts]
            body = chunks(reply, request, running.queue, running.parsers, counts, self.writer)
            return EventStream(body, lambda: self.close(http, running))
        answers = await self.collected(http, running)
        if answers is None:
            return Response(status_code=499)  # the client has disconnected: only log and metrics see this
        return await self._written(reply, answers, len(prompts))

    async def begin(self, http: Request, request: ChatRequest | CompletionRequest, prompts: Many[list[int]]) -> Running:
        """Queue the sequences of a request. Raises ApiError; the caller closes what is returned."""
        answers = requests.count(request, len(prompts), self.settings)
        constraint = await self.prepared(http, constraint_of(request, self.served, prompts), "response_format")
        budget = await self.prepared(http, budget_of(request, self.served), THOUGHTS)
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout_s
        queue = EventQueue(deadline, self.settings.keep_alive_s if request.stream else None)
        sinks = [partial(queue.put, i) for i in range(answers)]
        each = request.n or 1
        parsers = [self.parser(request, prompts[index // each]) for index in range(answers)]
        # reasoning tokens are counted as they arrive
        stream = bool(request.stream) or any(parser.reasoned is not None for parser in parsers)
        sequences = requests.make_sequences(request, prompts, self.served, self.context, sinks, stream, constraint)
        if budget is not None:
            self._limit_thoughts(sequences, budget)
        self._submit(sequences)
        http.state.counts = {"prompt_tokens": sum(map(len, prompts)), "answers": answers}
        return Running(sequences, queue, parsers)

    def _limit_thoughts(self, sequences: list[Sequence], budget: ThoughtBudget) -> None:
        for sequence in sequences:
            opened = opens_thought(self.served.dialects.thoughts, sequence.prompt, budget.piece)
            limited = budget.start(sequence.params.constraint, opened)
            sequence.params = replace(sequence.params, constraint=limited)

    def _submit(self, sequences: list[Sequence]) -> None:
        try:
            self.engine.submit(sequences)
        except QueueFull:
            running, waiting = self.engine.load
            raise busy(1 + waiting // max(running, 1)) from None
        except Draining:
            raise draining() from None

    def close(self, http: Request, running: Running) -> None:
        """Cancel what is still running of a request."""
        running.queue.close()
        self.engine.cancel(running.sequences)
        generated = sum(sequence.generated for sequence in running.sequences)
        http.state.counts = {**http.state.counts, "completion_tokens": generated}

    async def collected(self, http: Request, running: Running) -> list[Answer] | None:
        """Wait for all choices and close; return None if the client disconnects first. Raises ApiError."""
        leaving = asyncio.create_task(until_disconnect(http.receive))
        collecting = asyncio.create_task(_collect(running.queue, running.parsers))
        try:
            await asyncio.wait({leaving, collecting}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                http.state.code = CLIENT_DISCONNECTED
                return None
            return collecting.result()
        except Timeout:
            raise timed_out() from None
        finally:
            self.close(http, running)
            for task in (leaving, collecting):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _written(self, reply: Reply, answers: list[Answer], prompts: int) -> Response:
        scores = (logprobs.count(answer.scores or ()) * reply.each for answer in answers)
        size = sum(scores) + sum(logprobs.count(answer.end.logprobs) for answer in answers)
        body = await self.writer.make(lambda: SliceEncoder().encode(reply.whole(answers, prompts)), size)
        return Response(body, media_type="application/json")


def json_reply(key: str, content: bytes) -> Response:
    """Return {key: content} for content that is already JSON, without decoding it in the event loop."""
    return Response(b'{"%b":%b}' % (key.encode(), content), media_type="application/json")


class _Choice:
    """One choice of a whole reply. Text is parsed as it arrives, so that long replies do not hold up the event loop."""

    def __init__(self, parser: OutputParser) -> None:
        self._parser, self._logprobs, self._reasoning = parser, list[TokenLogprob](), 0
        self.scores: list[TokenLogprob] | None = None
        self.answer: Answer | None = None

    def take(self, event: Delta | Finished) -> None:
        """Parse new text, and count the tokens up to the end of the reasoning."""
        before = self._parser.reasoned
        parsed = self._parser.feed(event.text, final=isinstance(event, Finished))
        if self._parser.reasoned != before:
            self._reasoning = event.completion_tokens
        self._logprobs += event.logprobs
        if isinstance(event, Finished):
            self.answer = Answer(replace(event, logprobs=self._logprobs), parsed, self.scores, self._reasoning)


async def _collect(queue: EventQueue, parsers: list[OutputParser]) -> list[Answer]:
    """Wait for the end of every choice. Raises Timeout, or ApiError if one failed."""
    choices = [_Choice(parser) for parser in parsers]
    while any(choice.answer is None for choice in choices):
        for index, event in await queue.take():
            if isinstance(event, PromptLogprobs):
                choices[index].scores = event.logprobs
                continue
            if isinstance(event, Finished) and event.error is not None:
                raise ended(event.error, event.refused)
            choices[index].take(event)
    return [choice.answer for choice in choices if choice.answer is not None]
