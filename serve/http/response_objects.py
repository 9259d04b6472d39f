"""OpenAI's replies and chunks, with every field that its schema requires."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..engine.events import Finished, FinishReason, TokenLogprob
from ..served import Served
from .output_parsers import ParsedDelta

Json = dict[str, Any]


class Answer(NamedTuple):
    """A whole answer: its last event, its text as it was parsed, and what is known of its prompt's tokens."""

    end: Finished
    parsed: ParsedDelta
    scores: list[TokenLogprob] | None = None


class Echo(NamedTuple):
    """A prompt that is put before its answer: as text and as tokens."""

    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Reply:
    """What all parts of one answer have in common: its id, its time, the model's name. `chat` or plain completion.

    `echoes`: by answer, the prompts that are put before them; empty where they are not wanted.
    """

    served: Served
    chat: bool
    echoes: Many[Echo] = ()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> Json:
        """Return the fields that every object begins with."""
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def whole(self, answers: Many[Answer], prompts: int) -> Json:
        """Return the reply to a request that does not stream."""
        choice = self._chat_choice if self.chat else self._text_choice
        return {
            **self.head("chat.completion" if self.chat else "text_completion"),
            "choices": [choice(index, *answer) for index, answer in enumerate(answers)],
            "usage": usage([answer.end for answer in answers], prompts),
        }

    def _chat_choice(self, index: int, end: Finished, parsed: ParsedDelta, scores: list[TokenLogprob] | None) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": parsed.content, "refusal": None, "annotations": []},
            "logprobs": self.chat_logprobs(end.logprobs),
            "finish_reason": reason(end.reason),
        }

    def _text_choice(self, index: int, end: Finished, parsed: ParsedDelta, scores: list[TokenLogprob] | None) -> Json:
        text, logprobs = "", None
        if self.echoes:
            text, logprobs = self.echo(index, scores)
        own = self.text_logprobs(end.logprobs, len(text))
        if own and logprobs:
            logprobs = {name: values + own[name] for name, values in logprobs.items()}
        return {
            "index": index,
            "text": text + parsed.content,
            "logprobs": logprobs or own,
            "finish_reason": reason(end.reason),
        }

    def echo(self, index: int, scores: list[TokenLogprob] | None) -> tuple[str, Json | None]:
        """Return an answer's prompt, and the log-probabilities of its tokens; the first one has none."""
        text, tokens = self.echoes[index]
        if scores is None:
            return text, None
        piece = self.served.tokenizer.piece
        result = self._text_logprobs([piece(tokens[0]), *(entry.data for entry in scores)])
        result["token_logprobs"] = [None, *(_finite(entry.logprob) for entry in scores)]
        result["top_logprobs"] = [None, *map(self._top, scores)]
        # a start token that the server put before the text, or a blank that the tokenizer did, is not in it
        pieces = b"".join((piece(tokens[0]), *(entry.data for entry in scores))).decode("utf-8", "replace")
        added = max(0, len(pieces) - len(text))
        result["text_offset"] = [max(0, offset - added) for offset in result["text_offset"]]
        return text, result

    def opening(self, index: int) -> Json:
        """Return the first chunk of a chat answer, which names the role."""
        return self.chunk(index, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def chunk(self, index: int, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
        """Return one chunk of a chat answer."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self.head("chat.completion.chunk"), "choices": [choice]}

    def text_chunk(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        """Return one chunk of a plain completion."""
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return {**self.head("text_completion"), "choices": [choice]}

    def closing(self, ends: Many[Finished], prompts: int) -> Json:
        """Return the last chunk, which has the counts and no choices."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.head(kind), "choices": [], "usage": usage(ends, prompts)}

    def chat_logprobs(self, logprobs: Many[TokenLogprob]) -> Json | None:
        """Return the log-probabilities of a chat choice, None where none were asked for."""
        if not logprobs:
            return None
        content = []
        for entry in logprobs:
            top = [self._token(self.served.tokenizer.piece(i), value) for i, value in entry.top]
            content.append({**self._token(entry.data, entry.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _token(self, data: bytes, logprob: float) -> Json:
        return {"token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)}

    def text_logprobs(self, logprobs: Many[TokenLogprob], offset: int) -> Json | None:
        """Return the log-probabilities of a plain completion; `offset` is where its text began."""
        if not logprobs:
            return None
        result = self._text_logprobs([entry.data for entry in logprobs])
        result["token_logprobs"] = [_finite(entry.logprob) for entry in logprobs]
        result["top_logprobs"] = [self._top(entry) for entry in logprobs]
        result["text_offset"] = [offset + at for at in result["text_offset"]]
        return result

    def _text_logprobs(self, pieces: Many[bytes]) -> Json:
        """Return the texts of tokens, and at which character of the text each begins."""
        decoder, offset, offsets = codecs.getincrementaldecoder("utf-8")("replace"), 0, []
        for piece in pieces:
            offsets.append(offset)
            offset += len(decoder.decode(piece))
        return {"tokens": [piece.decode("utf-8", "replace") for piece in pieces], "text_offset": offsets}

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """Return the likeliest tokens by their text, and the token itself; of two with the same text the likelier."""
        result: dict[str, float] = {}
        for token, value in entry.top:
            result.setdefault(self.served.tokenizer.piece(token).decode("utf-8", "replace"), _finite(value))
        result.setdefault(entry.data.decode("utf-8", "replace"), _finite(entry.logprob))
        return result


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)


def usage(ends: Many[Finished], prompts: int) -> Json:
    """Return the counts of a request: each prompt once, every answer's tokens; cached ones had cells already."""
    each = max(1, len(ends) // max(prompts, 1))
    prompt_tokens = sum(end.prompt_tokens for end in ends[::each])
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        **counts(prompt_tokens, completion_tokens),
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in ends[::each]), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def counts(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return the counts that every `usage` has."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def reason(finish: FinishReason) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "length" if finish == "length" else "stop"
