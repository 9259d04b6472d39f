"""POST /v1/chat/completions, and POST /apply-template, which returns the rendered messages."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from burnish.chat import RESERVED_VARIABLES

from ...engine.tokenizer import Tokenizer
from .. import requests
from ..errors import ApiError
from ..schema import ChatRequest, Rendering, TemplateRequest
from ..service import Service, json_reply


def add(app: FastAPI, service: Service) -> None:

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        """Chat, whole or streamed."""
        request = await service.bodies.request(ChatRequest, http)
        requests.check_model(request.model, service.served)
        prompt = await service.prepared(http, chat_prompt(request, service), "messages")
        return await service.answer(http, request, [prompt])

    @app.post("/apply-template")
    async def apply_template(http: Request) -> Response:
        """The messages as rendered by the template: `{"prompt"}`."""
        request = await service.bodies.request(TemplateRequest, http)
        requests.check_model(request.model, service.served)
        return json_reply("prompt", await service.prepared(http, chat_text(request, service), "messages"))


async def chat_prompt(request: Rendering, service: Service) -> list[int]:
    """Render and tokenize the messages, without adding special tokens. Raises ApiError 400 and tokenizer errors."""
    messages = await _checked(request, service)
    return await service.served.tokenizer.encode_chat(messages, request.variables, request.ending, service.context)


async def chat_text(request: Rendering, service: Service) -> bytes:
    """Render the messages to a JSON string. Raises ApiError 400 and tokenizer errors."""
    messages = await _checked(request, service)
    return await service.served.tokenizer.render_json(messages, request.variables, request.ending)


async def _checked(request: Rendering, service: Service) -> list[dict[str, Any]]:
    """Return the messages for the template. Raises ApiError 400."""
    served, settings = service.served, service.settings
    if not served.tokenizer.has_template:
        raise ApiError(
            400, "This model has no chat template; use /v1/completions.", param="model", code="no_chat_template"
        )
    if len(request.messages) > settings.max_messages:
        text = f"Invalid 'messages': expected at most {settings.max_messages} messages, found {len(request.messages)}."
        raise ApiError(400, text, param="messages", code="array_above_max_length")
    if reserved := RESERVED_VARIABLES & set(request.chat_template_kwargs or {}):
        text = f"Invalid 'chat_template_kwargs': '{min(reserved)}' is reserved and can't be set."
        raise ApiError(400, text, param=f"chat_template_kwargs.{min(reserved)}", code="invalid_value")
    if isinstance(request, ChatRequest) and request.offered and not served.dialects.usable:
        why = served.dialects.why or "its chat template does not take tools"
        text = f"Unsupported parameter: 'tools': this model can't call tools: {why}."
        raise ApiError(400, text, param="tools", code="unsupported_parameter")
    messages = [message.for_template() for message in request.messages]
    if served.refuse_specials:
        # arguments in the template's shape: JSON text may spell a special string with escapes
        shaped = served.dialects.shape.messages(messages)
        await _refuse_specials(served.tokenizer, shaped, request.variables.get("tools") or [])
    return messages


async def _refuse_specials(
    tokenizer: Tokenizer, messages: Many[Mapping[str, Any]], tools: Many[Mapping[str, Any]]
) -> None:
    """Raise ApiError 400 for the first special string in the messages or the tools."""
    if found := await tokenizer.special_string([*messages, *tools]):
        index, field, string = found
        tool = index - len(messages)
        param = f"messages[{index}].{field}" if tool < 0 else f"tools[{tool}].{field}"
        what = f"'{string}' is a special token of this model and not allowed in {param.partition('[')[0]}"
        raise ApiError(400, f"Invalid '{param}': {what}.", param=param, code="invalid_value")
