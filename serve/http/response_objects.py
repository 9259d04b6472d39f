"""OpenAI's reply and chunk objects, with every required field of its schema."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from burnish.rendering.shape import tool_call

from ..engine.events import Finished, FinishReason, TokenLogprob
from ..served import Served
from .output_parsers import CallDelta, ParsedDelta
from .replies import logprobs
from .replies.writing import Joined

Json = dict[str, Any]


class Answer(NamedTuple):
    """A complete choice: its last event, its parsed text, and, for a prompt's first choice, the prompt's logprobs."""

    end: Finished
    parsed: ParsedDelta
    scores: list[TokenLogprob] | None = None
    reasoning_tokens: int = 0


class Echo(NamedTuple):
    """An echoed prompt, as text and as tokens."""

    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Reply:
    """Data shared by all parts of a reply: id, time and model name; `chat` or text completion.

    `echoes`: the prompts to echo, empty if not requested; each has `each` choices.
    """

    served: Served
    chat: bool
    echoes: Many[Echo] = ()
    each: int = 1
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> Json:
        """Return the first fields of every object."""
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def whole(self, answers: Many[Answer], prompts: int) -> Json:
        """Return the reply to a non-streamed request."""
        echoes = [self.echo(i, answers[i * self.each].scores) for i in range(len(self.echoes))]
        choices = []
        for index, (end, parsed, *_) in enumerate(answers):
            before = echoes[index // self.each] if echoes else ("", None)
            choices.append(
                self._chat_choice(index, end, parsed) if self.chat else self._text_choice(index, end, parsed, *before)
            )
        return {
            **self.head("chat.completion" if self.chat else "text_completion"),
            "choices": choices,
            "usage": usage([answer.end for answer in answers], prompts, sum(a.reasoning_tokens for a in answers)),
        }

    def _chat_choice(self, index: int, end: Finished, parsed: ParsedDelta) -> Json:
        return {
            "index": index,
            "message": self._message(parsed),
            "logprobs": self.chat_logprobs(end.logprobs),
            "finish_reason": reason(end.reason, bool(parsed.calls)),
        }

    @staticmethod
    def _message(parsed: ParsedDelta) -> Json:
        content = None if parsed.calls and not parsed.content else parsed.content
        message: Json = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        if parsed.reasoning:
            message["reasoning_content"] = parsed.reasoning
        if parsed.calls:
            message["tool_calls"] = [tool_call(call.id, call.name, call.arguments) for call in parsed.calls]
        return message

    def _text_choice(self, index: int, end: Finished, parsed: ParsedDelta, text: str, before: Json | None) -> Json:
        """`text` and `before` are the echoed prompt and its log-probabilities."""
        own = self.text_logprobs(end.logprobs, len(text))
        if own and before:
            own = {name: Joined((values, own[name])) for name, values in before.items()}
        return {
            "index": index,
            "text": text + parsed.content,
            "logprobs": own or before,
            "finish_reason": reason(end.reason),
        }

    def echo(self, prompt: int, scores: list[TokenLogprob] | None) -> tuple[str, Json | None]:
        """Return the text of an echoed prompt, and its log-probabilities if `scores` is given."""
        text, tokens = self.echoes[prompt]
        if scores is None:
            return text, None
        piece = self.served.tokenizer.piece
        return text, logprobs.of_prompt(piece(tokens[0]), scores, piece, len(text))

    def opening(self, index: int) -> Json:
        """Return the first chunk of a chat choice, which contains the role."""
        return self.chunk(index, {"role": "assistant", "content": "", "refusal": None}, None, None)

    def chunk(self, index: int, delta: Json, scores: Json | None, finish: str | None) -> Json:
        """Return one chunk of a chat choice."""
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": finish}
        return {**self.head("chat.completion.chunk"), "choices": [choice]}

    def text_chunk(self, index: int, text: str, scores: Json | None, finish: str | None) -> Json:
        """Return one chunk of a text completion."""
        choice = {"index": index, "text": text, "logprobs": scores, "finish_reason": finish}
        return {**self.head("text_completion"), "choices": [choice]}

    def closing(self, ends: Many[Finished], prompts: int, reasoning: int = 0) -> Json:
        """Return the last chunk, which contains the usage and no choices; `reasoning`: reasoning tokens."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.head(kind), "choices": [], "usage": usage(ends, prompts, reasoning)}

    def chat_logprobs(self, entries: Many[TokenLogprob]) -> Json | None:
        """Return a chat choice's log-probabilities, or None."""
        return logprobs.of_chat(entries, self.served.tokenizer.piece)

    def text_logprobs(self, entries: Many[TokenLogprob], offset: int) -> Json | None:
        """Return a text completion's log-probabilities, or None; `offset` is where its text begins."""
        return logprobs.of_text(entries, self.served.tokenizer.piece, offset)


def usage(ends: Many[Finished], prompts: int, reasoning: int = 0) -> Json:
    """Return a request's usage: each prompt counted once, the tokens of all choices, and the reasoning tokens."""
    each = max(1, len(ends) // max(prompts, 1))
    prompt_tokens = sum(end.prompt_tokens for end in ends[::each])
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        **counts(prompt_tokens, completion_tokens),
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in ends[::each]), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def counts(prompt_tokens: int, completion_tokens: int) -> Json:
    """Return the token counts contained in every `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def call_delta(call: CallDelta) -> Json:
    """Return a chunk's part of a call: the id and name the first time, then only new argument text."""
    function = {"arguments": call.arguments}
    if not call.id:
        return {"index": call.index, "function": function}
    return {"index": call.index, "id": call.id, "type": "function", "function": {"name": call.name, **function}}


def reason(finish: FinishReason, called: bool = False) -> str:
    """Return OpenAI's finish_reason; `called`: the choice contains tool calls."""
    return "length" if finish == "length" else "tool_calls" if called else "stop"
