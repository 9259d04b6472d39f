"""OpenAI's replies and chunks, with every field that its schema requires."""

from __future__ import annotations

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
    """A whole answer: its last event, and its text as it was parsed."""

    end: Finished
    parsed: ParsedDelta


@dataclass(frozen=True)
class Reply:
    """What all parts of one answer have in common: its id, its time, the model's name. `chat` or plain completion."""

    served: Served
    chat: bool
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

    def _chat_choice(self, index: int, end: Finished, parsed: ParsedDelta) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": parsed.content, "refusal": None, "annotations": []},
            "logprobs": self.chat_logprobs(end.logprobs),
            "finish_reason": reason(end.reason),
        }

    def _text_choice(self, index: int, end: Finished, parsed: ParsedDelta) -> Json:
        return {
            "index": index,
            "text": parsed.content,
            "logprobs": self.text_logprobs(end.logprobs, 0),
            "finish_reason": reason(end.reason),
        }

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
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}

    def text_logprobs(self, logprobs: Many[TokenLogprob], offset: int) -> Json | None:
        """Return the log-probabilities of a plain completion; `offset` is where its text began."""
        if not logprobs:
            return None
        result: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in logprobs:
            text = entry.data.decode("utf-8", "replace")
            top = {self.served.tokenizer.piece(i).decode("utf-8", "replace"): v for i, v in entry.top}
            result["tokens"].append(text)
            result["token_logprobs"].append(entry.logprob)
            result["top_logprobs"].append(top)
            result["text_offset"].append(offset)
            offset += len(text)
        return result


def usage(ends: Many[Finished], prompts: int) -> Json:
    """Return the counts of a request: each prompt once, every answer's tokens; cached ones had cells already."""
    each = max(1, len(ends) // max(prompts, 1))
    prompt_tokens = sum(end.prompt_tokens for end in ends[::each])
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in ends[::each]), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def reason(finish: FinishReason) -> str:
    """Return OpenAI's word for why an answer ended."""
    return "length" if finish == "length" else "stop"
