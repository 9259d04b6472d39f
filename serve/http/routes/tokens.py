"""POST /tokenize and /detokenize, as llama.cpp's server has them."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..errors import ApiError
from ..schema import DetokenizeRequest, TokenizeRequest
from ..service import Service

# each piece is an object of the reply: more are refused, ids alone are not
MOST_PIECES = 50_000


def add(app: FastAPI, service: Service) -> None:
    """Add both routes."""
    tokenizer, bodies = service.served.tokenizer, service.bodies

    @app.post("/tokenize")
    async def tokenize(http: Request) -> Response:
        request = await bodies.request(TokenizeRequest, http)
        add, parse = request.add_special, request.parse_special
        if not request.with_pieces:
            ids = tokenizer.encode(request.content, add_special=add, parse_special=parse)
            return await bodies.run(http, JSONResponse, {"tokens": await service.prepared(http, ids, "content")})
        found = tokenizer.encode_pieces(request.content, add_special=add, parse_special=parse)
        return await bodies.run(http, _pieces, await service.prepared(http, found, "content"))

    @app.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        request = await bodies.request(DetokenizeRequest, http)
        await bodies.run(http, _check_ids, request.tokens, tokenizer.vocab_size)
        return JSONResponse({"content": await service.prepared(http, tokenizer.decode(request.tokens), "tokens")})


def _pieces(found: list[tuple[int, str]]) -> Response:
    """Return ids with their texts. Raises ApiError 400 for too many."""
    if len(found) > MOST_PIECES:
        text = f"The text has {len(found)} tokens; 'with_pieces' takes at most {MOST_PIECES}."
        raise ApiError(400, text, param="content", code="string_above_max_length")
    return JSONResponse({"tokens": [{"id": token, "piece": piece} for token, piece in found]})


def _check_ids(ids: list[int], vocab_size: int) -> None:
    """Raise ApiError 400 for an id that is not in the vocabulary."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        text = f"Token id {str(wrong)[:40]} is not in the vocabulary."
        raise ApiError(400, text, param="tokens", code="invalid_value")
