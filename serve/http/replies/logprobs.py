"""Log-probabilities in OpenAI's formats, for chats, text completions and echoed prompts."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from typing import Any

from ...engine.events import TokenLogprob

Json = dict[str, Any]
Piece = Callable[[int], bytes]


def count(logprobs: Many[TokenLogprob]) -> int:
    """Return how many log-probabilities there are, including alternatives."""
    return len(logprobs) * (1 + len(logprobs[0].top)) if logprobs else 0


def of_chat(logprobs: Many[TokenLogprob], piece: Piece) -> Json | None:
    """Return the logprobs of a chat choice, or None; `piece` returns a token's bytes."""
    if not logprobs:
        return None
    content = []
    for entry in logprobs:
        top = [_token(piece(token), value) for token, value in entry.top]
        content.append({**_token(entry.data, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def of_text(logprobs: Many[TokenLogprob], piece: Piece, offset: int) -> Json | None:
    """Return the logprobs of a text completion, or None; `offset` is where its text begins."""
    if not logprobs:
        return None
    return {
        "tokens": [name(entry.data) for entry in logprobs],
        "text_offset": [offset + at for at in _offsets(entry.data for entry in logprobs)[:-1]],
        "token_logprobs": [_finite(entry.logprob) for entry in logprobs],
        "top_logprobs": [_top(entry, piece) for entry in logprobs],
    }


def of_prompt(first: bytes, scores: Many[TokenLogprob], piece: Piece, length: int) -> Json:
    """Return the logprobs of a prompt of `length` characters; `first` is its first token, which has none."""
    pieces = [first, *(entry.data for entry in scores)]
    *offsets, end = _offsets(pieces)
    # a start token or space added by the tokenizer is not part of the text
    added = max(0, end - length)
    return {
        "tokens": list(map(name, pieces)),
        "text_offset": [max(0, offset - added) for offset in offsets],
        "token_logprobs": [None, *(_finite(entry.logprob) for entry in scores)],
        "top_logprobs": [None, *(_top(entry, piece) for entry in scores)],
    }


def name(data: bytes) -> str:
    r"""Return a token's text, or `bytes:\xe2\x80` if its bytes are not complete UTF-8.

    Tokens with different bytes therefore have different names.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"bytes:{repr(data)[2:-1]}"


def _token(data: bytes, logprob: float) -> Json:
    return {"token": data.decode("utf-8", "backslashreplace"), "logprob": _finite(logprob), "bytes": list(data)}


def _top(entry: TokenLogprob, piece: Piece) -> dict[str, float]:
    """Return the most likely tokens and the token itself by name; if two share a name, the more likely one."""
    result: dict[str, float] = {}
    for token, value in entry.top:
        result.setdefault(name(piece(token)), _finite(value))
    result.setdefault(name(entry.data), _finite(entry.logprob))
    return result


def _offsets(pieces: Iterable[bytes]) -> list[int]:
    """Return the character offset of each piece in the text, and the total length."""
    decoder, offsets = codecs.getincrementaldecoder("utf-8")("replace"), [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(decoder.decode(piece)))
    offsets[-1] += len(decoder.decode(b"", final=True))
    return offsets


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)
