"""The result of a row: its answers and token counts, or an error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer. `tool_calls` are OpenAI's objects; `logprobs` are those of the options, for multiple choice."""

    text: str
    finish_reason: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    reasoning: str = ""
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Result:
    """A row's answers, with the tokens of its prompt and of all answers; none if it failed with an error."""

    answers: tuple[Answer, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    seconds: float = 0.0
    finished: float = 0.0  # Unix time, 0 if unknown

    def to_json(self) -> dict[str, Any]:
        """Return the result for the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Return a result from the journal."""
        lists = ("tool_calls", "logprobs")
        answers = tuple(Answer(**one | {name: tuple(one[name]) for name in lists}) for one in value["answers"])
        return cls(**{**value, "answers": answers})

    @classmethod
    def of_reply(cls, reply: Mapping[str, Any], seconds: float) -> Result:
        """Return the result of a chat or text completion. Raises KeyError, TypeError or ValueError if it is not one."""
        usage = reply.get("usage") or {}
        answers = tuple(_answer(choice) for choice in sorted(reply["choices"], key=lambda one: int(one["index"])))
        if not answers:
            raise ValueError("no choices")
        asked, answered = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        return cls(answers, asked, answered, seconds=round(seconds, 4), finished=round(time.time(), 4))


def _answer(choice: Mapping[str, Any]) -> Answer:
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    calls = tuple({"id": c.get("id", ""), "type": "function", "function": c["function"]} for c in _list(message))
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    text = message.get("content") or message.get("refusal") or ""
    return Answer(str(text), str(choice.get("finish_reason") or ""), calls, str(thought))


def _list(message: Mapping[str, Any]) -> list[Any]:
    return list(message.get("tool_calls") or [])


def working_seconds(results: Iterable[Result]) -> float:
    """Return how long at least one of the rows was being answered, also if that was interrupted meanwhile."""
    total = until = 0.0
    for start, end in sorted((one.finished - one.seconds, one.finished) for one in results if one.finished):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
