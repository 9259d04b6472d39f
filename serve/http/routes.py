"""The routes, on an engine and a loaded model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence as Many
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from burnish.llama import cpu_variant
from burnish.versions import commit, version

from ..artefact import Served
from ..engine.engine import Draining, Engine
from ..engine.events import Inbox, Timeout
from ..engine.scheduler import QueueFull
from ..engine.sequence import Finished, Sequence
from ..metrics import Metrics
from ..settings import ServeSettings
from . import requests
from .errors import ApiError, busy, draining, failed
from .middleware import Keys, Log, Manners
from .response_objects import Reply
from .schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from .sse import EventStream, chunks, timed_out, until_disconnect

PAGE = Path(__file__).parents[1] / "web" / "index.html"
# longer texts are tokenized outside the event loop, which they would hold up
INLINE_BYTES = 32_768


class Server:
    """What the routes share: the engine, the model, the settings, the metrics."""

    def __init__(self, engine: Engine, served: Served, context: int, settings: ServeSettings, metrics: Metrics) -> None:
        self.engine, self.served, self.context = engine, served, context
        self.settings, self.metrics = settings, metrics

    async def body(self, request: Request) -> bytes:
        """Read a body up to the limit. Raises ApiError 413."""
        most, size, parts = self.settings.max_body_bytes, 0, []
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise _too_large(most)
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
        return b"".join(parts)

    async def answer(
        self, http: Request, request: ChatRequest | CompletionRequest, prompts: Many[list[int]]
    ) -> Response:
        """Queue the sequences of a request and reply, streamed or whole."""
        answers = requests.count(request, len(prompts), self.settings)
        deadline = asyncio.get_running_loop().time() + self.settings.request_timeout_s
        inbox = Inbox(deadline, self.settings.keep_alive_s if request.stream else None)
        sinks = [partial(inbox.put, i) for i in range(answers)]
        sequences = requests.make_sequences(request, prompts, self.served, self.settings, self.context, sinks)
        self._submit(sequences)
        reply = Reply(self.served, chat=isinstance(request, ChatRequest))
        http.state.counts = {"prompt_tokens": sum(map(len, prompts)), "answers": answers}
        if request.stream:
            body = chunks(reply, request, inbox, answers, len(prompts))
            return EventStream(body, lambda: self._close(http, sequences, inbox))
        return await self._whole(http, reply, sequences, inbox, len(prompts))

    def _submit(self, sequences: list[Sequence]) -> None:
        try:
            self.engine.submit(sequences)
        except QueueFull:
            running, waiting = self.engine.load
            raise busy(1 + waiting // max(running, 1)) from None
        except Draining:
            raise draining() from None

    def _close(self, http: Request, sequences: list[Sequence], inbox: Inbox) -> None:
        inbox.close()
        self.engine.cancel(sequences)
        http.state.counts = {**http.state.counts, "completion_tokens": sum(s.generated for s in sequences)}

    async def _whole(
        self, http: Request, reply: Reply, sequences: list[Sequence], inbox: Inbox, prompts: int
    ) -> Response:
        leaving = asyncio.create_task(until_disconnect(http.receive))
        collecting = asyncio.create_task(_collect(inbox, len(sequences)))
        try:
            await asyncio.wait({leaving, collecting}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)  # the client has gone: nobody reads this
            return JSONResponse(reply.whole(collecting.result(), prompts))
        except Timeout:
            raise timed_out() from None
        finally:
            self._close(http, sequences, inbox)
            for task in (leaving, collecting):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task


async def _collect(inbox: Inbox, answers: int) -> list[Finished]:
    """Wait for the end of every answer. Raises Timeout, and ApiError 500 where one failed."""
    ends: dict[int, Finished] = {}
    while len(ends) < answers:
        for index, event in await inbox.take():
            if isinstance(event, Finished):
                if event.error is not None:
                    raise failed(event.error)
                ends[index] = event
    return [ends[i] for i in range(answers)]


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {most} bytes.", code="request_too_large")


def create_app(server: Server, keys: Keys, log: Log) -> Manners:
    """Return the application: routes inside, manners around them."""
    app = FastAPI(title="Burnish", version=version(), openapi_url=None, docs_url=None, redoc_url=None)
    _errors(app)
    _health(app, server)
    _openai(app, server)
    _tools(app, server)
    return Manners(app, server.settings, keys, log, server.metrics)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        request.state.code = error.code or error.kind
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:200]
        if error.status_code == 404:
            fault = ApiError(404, f"Unknown request URL: {request.method} {path}.", code="unknown_url")
        elif error.status_code == 405:
            fault = ApiError(405, f"Not allowed to {request.method} on {path}.", code="method_not_supported")
        else:
            fault = ApiError(error.status_code, str(error.detail))
        return JSONResponse(fault.body(), fault.status, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        request.state.code = "internal_error"
        return JSONResponse(failed("The server had a fault; see its log.").body(), 500)


def _health(app: FastAPI, server: Server) -> None:
    @app.get("/health/live")
    async def live() -> Response:
        return JSONResponse({"status": "live"})

    @app.get("/health/ready")
    async def ready() -> Response:
        state = "failed" if server.engine.broken else "draining" if server.engine.draining else "ready"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    here = {"version": version(), "commit": commit(), "python": sys.version.split()[0]}

    @app.get("/version")
    async def versions() -> Response:
        model = server.served.model
        record = {"model": server.served.name, "context_length": server.context, **server.served.record}
        record |= {"cpu_variant": cpu_variant(), "amx": model.amx, "amx_why": model.amx_why}
        return JSONResponse({**here, **record})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))


def _openai(app: FastAPI, server: Server) -> None:
    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": server.served.created, "owned_by": "burnish"}

    @app.get("/v1/models")
    async def models() -> Response:
        names = dict.fromkeys((server.served.name, requests.DEFAULT_NAME))
        return JSONResponse({"object": "list", "data": [model(name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        requests.check_model(name, server.served)
        return JSONResponse(model(name))

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        body = await server.body(http)
        request = requests.parse(ChatRequest, body)
        requests.check_model(request.model, server.served)
        if len(body) > INLINE_BYTES:
            prompt = await asyncio.to_thread(requests.chat_prompt, request, server.served, server.settings)
        else:
            prompt = requests.chat_prompt(request, server.served, server.settings)
        return await server.answer(http, request, [prompt])

    @app.post("/v1/completions")
    async def completions(http: Request) -> Response:
        body = await server.body(http)
        request = requests.parse(CompletionRequest, body)
        requests.check_model(request.model, server.served)
        prompts = await asyncio.to_thread(requests.completion_prompts, request, server.served, server.settings)
        return await server.answer(http, request, prompts)


def _tools(app: FastAPI, server: Server) -> None:
    @app.post("/tokenize")
    async def tokenize(http: Request) -> Response:
        request = requests.parse(TokenizeRequest, await server.body(http))
        model, add, parse = server.served.model, request.add_special, request.parse_special
        if add and parse:  # as a raw prompt
            ids = await asyncio.to_thread(model.tokenize_raw, request.content)
        else:
            ids = await asyncio.to_thread(model.tokenize, request.content, add_special=add, parse_special=parse)
        if not request.with_pieces:
            return JSONResponse({"tokens": ids})
        pieces = [server.served.model.piece(i, special=True).decode("utf-8", "replace") for i in ids]
        return JSONResponse({"tokens": [{"id": i, "piece": p} for i, p in zip(ids, pieces, strict=True)]})

    @app.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        request = requests.parse(DetokenizeRequest, await server.body(http))
        model = server.served.model
        wrong = next((token for token in request.tokens if not 0 <= token < model.n_vocab), None)
        if wrong is not None:
            raise ApiError(400, f"Token id {wrong} is not in the vocabulary.", param="tokens", code="invalid_value")
        text = model.detokenize(request.tokens, special=True).decode("utf-8", "replace")
        return JSONResponse({"content": text})
