"""POST /v1/completions: raw prompts, without a template."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from ...engine.tokenizer import Tokenizer
from .. import requests
from ..errors import ApiError
from ..response_objects import Echo
from ..schema import CompletionRequest
from ..service import Service


def add(app: FastAPI, service: Service) -> None:

    @app.post("/v1/completions")
    async def completions(http: Request) -> Response:
        """Texts or token ids, without a template; a BOS token is added if the model is configured for one."""
        request = await service.bodies.request(CompletionRequest, http)
        requests.check_model(request.model, service.served)
        prompts = await service.prepared(http, completion_prompts(request, service), "prompt")
        before = await service.prepared(http, echoes(request, prompts, service.served.tokenizer), "prompt")
        return await service.answer(http, request, prompts, before)


async def completion_prompts(request: CompletionRequest, service: Service) -> list[list[int]]:
    """Tokenize each prompt without a template. A start token is added if the model is configured for one and the
    prompt does not begin with it. Raises ApiError 400 and tokenizer errors."""
    tokenizer, settings = service.served.tokenizer, service.settings
    prompts = request.prompts()
    if not prompts:
        raise ApiError(400, "Invalid 'prompt': empty array.", param="prompt", code="empty_array")
    if len(prompts) > settings.max_choices:
        text = f"Invalid 'prompt': expected at most {settings.max_choices} prompts, found {len(prompts)}."
        raise ApiError(400, text, param="prompt", code="array_above_max_length")
    return [
        await tokenizer.encode_prompt(prompt, service.context)
        if isinstance(prompt, str)
        else _checked(prompt, tokenizer.vocab_size)
        for prompt in prompts
    ]


async def echoes(request: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer) -> list[Echo]:
    """Return the prompts to echo: as sent, or the text of their token ids."""
    if not request.echo:
        return []
    pairs = zip(request.prompts(), prompts, strict=True)
    return [Echo(sent if isinstance(sent, str) else await tokenizer.decode(sent), ids) for sent, ids in pairs]


def _checked(ids: list[int], vocab_size: int) -> list[int]:
    """Return a prompt of token ids. Raises ApiError 400 for an unknown id or an empty prompt."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None or not ids:
        what = f"token id {str(wrong)[:40]} is not in the vocabulary" if ids else "empty list of token ids"
        raise ApiError(400, f"Invalid 'prompt': {what}.", param="prompt", code="invalid_value")
    return ids
