"""POST /v1/responses: OpenAI's Responses API, without state."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from .. import requests
from ..errors import ApiError
from ..replies.writing import encode
from ..responses.events import ResponseEvents, stream
from ..responses.objects import ResponseObject
from ..responses.schema import ResponsesRequest, renamed
from ..service import Service
from ..sse import EventStream
from .chat import chat_prompt


def add(app: FastAPI, service: Service) -> None:

    @app.post("/v1/responses")
    async def responses(http: Request) -> Response:
        """Responses without state, whole or as a stream of typed events."""
        request = await service.bodies.request(ResponsesRequest, http)
        requests.check_model(request.model, service.served)
        chat = request.for_chat()
        try:
            prompt = await service.prepared(http, chat_prompt(chat, service), "input")
            running = await service.begin(http, chat, [prompt])
        except ApiError as error:
            raise renamed(error) from None
        response = ResponseObject(service.served, request)
        if request.stream:
            events = ResponseEvents(response, running.parsers[0])
            return EventStream(stream(events, running.queue), lambda: service.close(http, running))
        answers = await service.collected(http, running)
        if answers is None:
            return Response(status_code=499)  # the client has disconnected: only log and metrics see this
        end, parsed, _, reasoning_tokens = answers[0]
        return Response(encode(response.whole(end, parsed, reasoning_tokens)), media_type="application/json")
