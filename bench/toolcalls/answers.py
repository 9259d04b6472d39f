"""Send the questions to a served model, and read its calls like an OpenAI client."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from openai import OpenAI

from .questions import Question
from .score import fault, right

# the longest answers that are expected have 920 tokens
MAX_TOKENS = 1024
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question: calls as (name, arguments), or text; `why` is empty if it is correct."""

    id: str
    category: str
    calls: tuple[tuple[str, Any], ...]
    content: str
    finish: str
    right: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def ask_all(url: str, questions: Sequence[Question], clients: int) -> list[Answer]:
    """Return the answers at temperature 0, with this number of concurrent clients."""
    client = OpenAI(base_url=url, api_key="none", max_retries=2, timeout=TIMEOUT_S)
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda question: ask(client, question), questions))


def ask(client: OpenAI, question: Question) -> Answer:
    """Return the answer to one question."""
    request: dict[str, Any] = {"messages": list(question.messages), "tools": question.tools}
    reply = client.chat.completions.create(model="default", temperature=0, max_tokens=MAX_TOKENS, **request)
    choice = reply.choices[0]
    calls = tuple(
        (call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls or ()
        if call.type == "function"
    )
    good = right(question, calls)
    why = "" if good else fault(question, calls)
    return Answer(question.id, question.category, calls, choice.message.content or "", choice.finish_reason, good, why)


def share(answers: Iterable[Answer]) -> float:
    """Return the percentage of correct answers; 0 if there are none."""
    marks = [answer.right for answer in answers]
    return 100 * sum(marks) / len(marks) if marks else 0.0
