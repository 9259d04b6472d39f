"""POST /tokenize and /detokenize, as in llama.cpp's server."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from ...engine.tokenizer import PromptTooLong, Tokenizer
from ..errors import ApiError
from ..schema import DetokenizeRequest, TokenizeRequest
from ..service import Service, json_reply

# maximum tokens with pieces, each of which becomes an object in the reply; ids alone have no limit
MAX_PIECES = 50_000


def add(app: FastAPI, service: Service) -> None:
    tokenizer, bodies = service.served.tokenizer, service.bodies

    @app.post("/tokenize")
    async def tokenize(http: Request) -> Response:
        """The token ids of a text: `{"tokens"}`."""
        request = await bodies.request(TokenizeRequest, http)
        return json_reply("tokens", await service.prepared(http, _encoded(request, tokenizer), "content"))

    @app.post("/detokenize")
    async def detokenize(http: Request) -> Response:
        """The text of token ids: `{"content"}`."""
        request = await bodies.request(DetokenizeRequest, http)
        await bodies.run(http, _check_ids, request.tokens, tokenizer.vocab_size)
        text = await service.prepared(http, tokenizer.decode_json(request.tokens), "tokens")
        return json_reply("content", text)


async def _encoded(request: TokenizeRequest, tokenizer: Tokenizer) -> bytes:
    """Return the ids of a text as JSON. Raises ApiError 400 for more than MAX_PIECES with pieces."""
    most = MAX_PIECES if request.with_pieces else None
    add, parse = request.add_special, request.parse_special
    try:
        return await tokenizer.encode_json(request.content, add_special=add, parse_special=parse, max_pieces=most)
    except PromptTooLong as error:
        text = f"Invalid 'content': the text has {error.tokens} tokens; 'with_pieces' allows at most {MAX_PIECES}."
        raise ApiError(400, text, param="content", code="string_above_max_length") from None


def _check_ids(ids: list[int], vocab_size: int) -> None:
    """Raise ApiError 400 for an id that is not in the vocabulary."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        text = f"Invalid 'tokens': token id {str(wrong)[:40]} is not in the vocabulary."
        raise ApiError(400, text, param="tokens", code="invalid_value")
