"""POST /tokenize and /detokenize, as llama.cpp's server has them."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from .. import requests
from ..errors import ApiError
from ..schema import DetokenizeRequest, TokenizeRequest
from ..service import Service


def add(app: FastAPI, service: Service) -> None:
    """Add both routes."""
    tokenizer = service.served.tokenizer

    @app.post("/tokenize")
    async def tokenize(http: Request) -> Response:
        request = requests.parse(TokenizeRequest, await service.body(http))
        add, parse = request.add_special, request.parse_special
        if not request.with_pieces:
            ids = tokenizer.encode(request.content, add_special=add, parse_special=parse)
            return JSONResponse({"tokens": await service.prepared(http, ids, "content")})
        found = tokenizer.encode_pieces(request.content, add_special=add, parse_special=parse)
        pieces = await service.prepared(http, found, "content")
        return JSONResponse({"tokens": [{"id": token, "piece": piece} for token, piece in pieces]})

    @app.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        request = requests.parse(DetokenizeRequest, await service.body(http))
        wrong = next((token for token in request.tokens if not 0 <= token < tokenizer.vocab_size), None)
        if wrong is not None:
            raise ApiError(400, f"Token id {wrong} is not in the vocabulary.", param="tokens", code="invalid_value")
        return JSONResponse({"content": await service.prepared(http, tokenizer.decode(request.tokens), "tokens")})
