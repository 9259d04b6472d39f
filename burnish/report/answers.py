"""The page's sample answers, split into reasoning, text and tool calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..dialects.definitions import parameters
from ..dialects.events import CallBroken, CallEnd, collect
from ..dialects.formats import DIALECTS
from ..dialects.reader import Parser
from ..dialects.thoughts import FORMATS
from ..exam.rows import Exam, Question
from ..records import TrainRecord


@dataclass(frozen=True)
class Part:
    """A part of an answer: its reasoning, its text, or a call with `name`, whose `text` is the arguments' JSON."""

    kind: str
    text: str
    name: str = ""


@dataclass(frozen=True)
class Answers:
    """One held-out prompt and its answers as parts: the base's, the trained model's and the data's."""

    prompt: str
    base: list[Part]
    trained: list[Part]
    expected: list[Part]


def answers(exam: Exam | None, train: TrainRecord) -> list[Answers]:
    """Return the exam's sample answers, read as the server would read them."""
    if exam is None:
        return []
    heldout = [question for question in exam.questions if question.kind == "heldout"]
    return [
        Answers(
            sample.prompt,
            *(list(_parts(text, question, train)) for text in (sample.base, sample.trained, sample.expected)),
        )
        for sample, question in zip(exam.samples, heldout, strict=False)
    ]


def _parts(text: str, question: Question, train: TrainRecord) -> Iterator[Part]:
    dialect = DIALECTS.get(train.tool_dialect or "")
    if dialect and not (question.tools or dialect.whole):
        dialect = None
    thoughts = FORMATS.get(train.reasoning_format or "")
    opened = thoughts is not None and thoughts.begin not in text and thoughts.end in text
    parser = Parser(dialect, thoughts, opened, parameters(question.tools or ()))
    events, last = parser.feed(text), parser.feed("", final=True)
    # answers are cut off at a number of tokens: a call that is then incomplete is shown as far as it goes
    cut = any(isinstance(event, CallBroken) for event in last)
    parsed = collect([*events, *(CallEnd() if isinstance(event, CallBroken) else event for event in last)])
    if parsed.reasoning.strip():
        yield Part("thought", parsed.reasoning.strip())
    if parsed.content.strip() or not parsed.calls:
        yield Part("text", parsed.content.strip())
    for number, call in enumerate(parsed.calls, start=1):
        yield Part("call", f"{call.arguments}{' …' if cut and number == len(parsed.calls) else ''}", call.name)
