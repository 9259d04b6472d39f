"""The exam: questions, the trained model's answers, and their files.

At the end of training, the trained model is scored on held-out rows and some general text. Export scores every
artifact on the same questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..files import FileError, first_line, read_jsonl, read_text, regular
from ..tokenizers.specials_check import SpecialsCheck
from .scores import Floats, Ints, TopLogprobs

QUESTIONS, REFERENCE, ANSWERS = "rows.jsonl", "reference.safetensors", "answers.json"

MAX_ID = 2**31  # llama.cpp ids are 32-bit


class ExamError(FileError):
    """Raised when an exam is missing or damaged."""


@dataclass(frozen=True)
class Question:
    """One exam row: the ids, the trained spans to score, and for a chat the messages for rendering prompts.

    `kind` is "heldout" or "general". `turns` are the spans' assistant turns (message indices). `text` is the source
    text of a plain-text row. `tools` are the tool definitions in a chat's prompts.
    """

    kind: Literal["heldout", "general"]
    input_ids: list[int]
    spans: list[tuple[int, int]]
    messages: list[dict[str, Any]] | None = None
    turns: tuple[int, ...] = ()
    text: str | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def positions(self) -> list[int]:
        """Positions whose next token is scored: position p predicts input_ids[p + 1]."""
        return [p for start, end in self.spans for p in range(max(start, 1) - 1, end - 1)]

    @property
    def targets(self) -> list[int]:
        """The true next token at each position."""
        return [self.input_ids[p + 1] for p in self.positions]


@dataclass(frozen=True)
class SampleAnswer:
    """One held-out prompt with free-running answers at temperature 0, for human readers."""

    prompt: str
    expected: str
    base: str
    trained: str


@dataclass(frozen=True)
class Exam:
    """A finished exam: questions, the trained model's answers, and the base's log-probabilities of the true tokens.

    `base_true` is [n], one value per scored position. `noise_kl` is the mean KL between scoring the trained model
    twice with different batching: smaller differences are noise.
    """

    questions: list[Question]
    trained: TopLogprobs
    base_true: Floats
    noise_kl: float
    noise_top1: float
    samples: tuple[SampleAnswer, ...] = ()
    specials_check: SpecialsCheck | None = None

    def heldout(self) -> npt.NDArray[np.bool_]:
        """Return a mask over the n positions: True in held-out rows, False in general text."""
        return np.concatenate([np.full(len(q.positions), q.kind == "heldout") for q in self.questions])

    def rows(self) -> Ints:
        """Return the data row for each of the n positions; questions from one conversation share a row."""
        numbers: dict[str, int] = {}
        keys = [json.dumps([q.kind, q.messages or q.input_ids]) for q in self.questions]
        counted = [
            np.full(len(question.positions), numbers.setdefault(key, len(numbers)))
            for question, key in zip(self.questions, keys, strict=True)
        ]
        return np.concatenate(counted).astype(np.int32)

    def save(self, directory: Path) -> None:
        """Write rows.jsonl, reference.safetensors, answers.json and probe.json into an existing directory."""
        lines = [json.dumps(_question_json(q), ensure_ascii=False) for q in self.questions]
        (directory / QUESTIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        tensors = {
            "top_ids": self.trained.ids,
            "top_logprobs": self.trained.logp,
            "true_logprobs": self.trained.true,
            "base_true_logprobs": self.base_true,
            "noise": np.array([self.noise_kl, self.noise_top1], dtype=np.float32),
        }
        save_file(tensors, directory / REFERENCE)
        samples = json.dumps([asdict(s) for s in self.samples], ensure_ascii=False, indent=2)
        (directory / ANSWERS).write_text(samples + "\n", encoding="utf-8")
        if self.specials_check is not None:
            self.specials_check.save(directory)

    @staticmethod
    def load(directory: Path) -> Exam:
        """Read an exam written by `save`. Raises ExamError if it is missing or damaged."""
        try:
            exam = _read(directory)
            _check(exam)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error, repr(error))
            raise ExamError(f"{directory}: the exam can't be read: {why}: restore it, or train again") from None
        return exam


def _read(directory: Path) -> Exam:
    t = load_file(regular(directory / REFERENCE))
    answers = TopLogprobs(t["top_ids"], t["top_logprobs"], t["true_logprobs"])
    questions = [_question(content) for content in read_jsonl(directory / QUESTIONS)]
    samples = tuple(SampleAnswer(**s) for s in json.loads(read_text(directory / ANSWERS)))
    noise = [float(value) for value in t["noise"]]
    check = SpecialsCheck.load(directory)
    return Exam(questions, answers, t["base_true_logprobs"], noise[0], noise[1], samples, check)


def _check(exam: Exam) -> None:
    """Raise ValueError if questions and answers do not match."""
    for number, q in enumerate(exam.questions, start=1):
        ids_fit = all(type(i) is int and 0 <= i < MAX_ID for i in q.input_ids)
        if not ids_fit or not all(0 <= a <= b <= len(q.input_ids) for a, b in q.spans):
            raise ValueError(f"{QUESTIONS}: question {number} has invalid ids or spans")
    expected = sum(len(q.positions) for q in exam.questions)
    answered = {len(part) for part in (exam.trained.ids, exam.trained.logp, exam.trained.true, exam.base_true)}
    if answered != {expected}:
        raise ValueError(
            f"{REFERENCE} covers {', '.join(map(str, sorted(answered)))} positions, but {QUESTIONS} has {expected}"
        )


def choose(questions: Iterable[Question], rows: int, tokens: int) -> list[Question]:
    """Return the first questions that fit: at most `rows`, and at most `tokens` scored positions in total."""
    chosen: list[Question] = []
    left = tokens
    for question in questions:
        if len(chosen) == rows or left <= 0:
            break
        if cut := _cut(question, left):
            chosen.append(cut)
            left -= len(cut.positions)
    return chosen


def _cut(question: Question, tokens: int) -> Question | None:
    """Shorten a question to whole spans with at most `tokens` scored positions; only plain-text spans are truncated."""
    spans, used = [], 0
    for start, end in question.spans:
        size = end - max(start, 1)
        if used + size > tokens:
            if question.messages is None and tokens > used:
                spans.append((start, max(start, 1) + tokens - used))
            break
        spans.append((start, end))
        used += size
    if not spans:
        return None
    ids = question.input_ids[: spans[-1][1]]
    return replace(question, input_ids=ids, spans=spans, turns=question.turns[: len(spans)])


def _question_json(q: Question) -> dict[str, Any]:
    content = {"kind": q.kind, "input_ids": q.input_ids, "spans": q.spans, "messages": q.messages, "turns": q.turns}
    tools = {"tools": q.tools} if q.tools else {}
    return content | tools | ({"text": q.text} if q.text is not None else {})


def _question(content: dict[str, Any]) -> Question:
    return Question(
        content["kind"],
        content["input_ids"],
        [(a, b) for a, b in content["spans"]],
        content["messages"],
        tuple(content["turns"]),
        content.get("text"),
        content.get("tools"),
    )
