"""The exam: its file format, and the one implementation of loss, KL and top-1 agreement.

At the end of training the trained model is scored on held-out rows and a little general text. Export asks every
artefact the same questions. All figures are in nats, computed in float32 from log-softmax rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from ..files import read_jsonl, read_text
from ..tokenizers.probe import Probe

TOP = 64
QUESTIONS, REFERENCE, ANSWERS = "rows.jsonl", "reference.safetensors", "answers.json"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Question:
    """One exam row: the ids, the trained spans that are scored, and for a chat what a prompt is rendered from.

    `kind` is "heldout" or "general". `turns` are the assistant turns (message indices) of the spans. `text` is what a
    plain text row was tokenized from.
    """

    kind: Literal["heldout", "general"]
    input_ids: list[int]
    spans: list[tuple[int, int]]
    messages: list[dict[str, Any]] | None = None
    turns: tuple[int, ...] = ()
    text: str | None = None

    @property
    def positions(self) -> list[int]:
        """Positions whose next token is scored: position p predicts input_ids[p + 1]."""
        return [p for start, end in self.spans for p in range(max(start, 1) - 1, end - 1)]

    @property
    def targets(self) -> list[int]:
        """The true next token at each position."""
        return [self.input_ids[p + 1] for p in self.positions]


@dataclass(frozen=True)
class Answers:
    """What one model said at every scored position of an exam, n in all.

    `ids` and `logp` are [n, TOP]: the most likely tokens and their log-probabilities; `true` is [n]: the true token's.
    """

    ids: Ints
    logp: Floats
    true: Floats

    @staticmethod
    def of(logits: Floats, targets: Sequence[int]) -> Answers:
        """Make answers of raw logits [n, vocabulary] and the n true tokens."""
        logp = log_softmax(logits)
        top = min(TOP, logp.shape[1])
        part = np.argpartition(logp, -top, axis=1)[:, -top:]
        values = np.take_along_axis(logp, part, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        return Answers(
            np.take_along_axis(part, order, axis=1).astype(np.int32),
            np.take_along_axis(values, order, axis=1),
            logp[np.arange(len(targets)), list(targets)],
        )

    @staticmethod
    def join(parts: Sequence[Answers]) -> Answers:
        """Put the answers to several questions one after another."""
        return Answers(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "logp", "true")))

    def take(self, mask: npt.NDArray[np.bool_] | slice) -> Answers:
        """Return the answers at the positions where `mask` is true, or that lie in a slice."""
        return Answers(self.ids[mask], self.logp[mask], self.true[mask])


@dataclass(frozen=True)
class Compared:
    """One model against a reference: what remains of a full row of logits once the reference's tokens are read.

    `kl` and `agree` are [n]: per-position KL(reference || model), and whether the most likely token is the same.
    """

    kl: Floats
    agree: npt.NDArray[np.bool_]

    @staticmethod
    def of(logits: Floats, reference: Answers) -> Compared:
        """Compare logits [n, vocabulary] with the reference's n rows."""
        logp = log_softmax(logits)
        return Compared(
            kl_with_tail(reference.logp, np.take_along_axis(logp, reference.ids.astype(np.int64), axis=1)),
            logp.argmax(axis=1) == reference.ids[:, 0],
        )

    @staticmethod
    def join(parts: Sequence[Compared]) -> Compared:
        """Put the comparisons of several questions one after another."""
        return Compared(np.concatenate([p.kl for p in parts]), np.concatenate([p.agree for p in parts]))


@dataclass(frozen=True)
class Spoken:
    """One held-out prompt answered freely at temperature 0, for a person to read."""

    prompt: str
    expected: str
    base: str
    trained: str


@dataclass(frozen=True)
class Exam:
    """A sat exam: its questions, the trained model's answers, the base's log-probabilities of the true tokens, [n].

    `noise_kl` is the mean KL between two scorings of the trained model in different batchings: below it nothing can
    be told apart.
    """

    questions: list[Question]
    trained: Answers
    base_true: Floats
    noise_kl: float
    noise_top1: float
    spoken: tuple[Spoken, ...] = ()
    probe: Probe | None = None

    def heldout(self) -> npt.NDArray[np.bool_]:
        """Which of the n positions belong to held-out rows; the others are general text."""
        return np.concatenate([np.full(len(q.positions), q.kind == "heldout") for q in self.questions])

    def rows(self) -> Ints:
        """Which data row each of the n positions belongs to: questions made of one conversation share theirs."""
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
        spoken = json.dumps([asdict(s) for s in self.spoken], ensure_ascii=False, indent=2)
        (directory / ANSWERS).write_text(spoken + "\n", encoding="utf-8")
        if self.probe is not None:
            self.probe.save(directory)

    @staticmethod
    def load(directory: Path) -> Exam:
        """Read an exam that `save` wrote."""
        t = load_file(directory / REFERENCE)
        answers = Answers(t["top_ids"], t["top_logprobs"], t["true_logprobs"])
        questions = [_question(content) for content in read_jsonl(directory / QUESTIONS)]
        spoken = tuple(Spoken(**s) for s in json.loads(read_text(directory / ANSWERS)))
        noise = [float(value) for value in t["noise"]]
        return Exam(questions, answers, t["base_true_logprobs"], noise[0], noise[1], spoken, Probe.load(directory))


def log_softmax(logits: Floats) -> Floats:
    """Return log-softmax over the last axis, in float32."""
    shifted = logits.astype(np.float32) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def kl_with_tail(p: Floats, q: Floats) -> Floats:
    """Return KL(P || Q) a row, from the log-probabilities [n, k] of the same k tokens under both.

    What lies outside the k tokens counts as one bucket, so that this is a lower bound of the full KL (by the log-sum
    inequality). The tail's mass is 1 - sum, held above the smallest float32 that matters.
    """
    p64, q64 = np.exp(p.astype(np.float64)), np.exp(q.astype(np.float64))
    p_tail, q_tail = np.maximum(1 - p64.sum(1), 1e-12), np.maximum(1 - q64.sum(1), 1e-12)
    kl = (p64 * (p.astype(np.float64) - q)).sum(1) + p_tail * np.log(p_tail / q_tail)
    return np.asarray(np.maximum(kl, 0), dtype=np.float32)


def choose(questions: Iterable[Question], rows: int, tokens: int) -> list[Question]:
    """Return the first questions that fit: at most `rows`, at most `tokens` scored positions in all."""
    chosen: list[Question] = []
    left = tokens
    for question in questions:
        if len(chosen) == rows or left <= 0:
            break
        if cut := _cut(question, left):
            chosen.append(cut)
            left -= len(cut.positions)
    return chosen


def by_question(questions: Sequence[Question], array: Floats) -> Iterator[tuple[Question, Floats]]:
    """Split an array over all n positions into each question's part."""
    start = 0
    for question in questions:
        yield question, array[start : start + len(question.positions)]
        start += len(question.positions)


def _cut(question: Question, tokens: int) -> Question | None:
    """Shorten a question to whole spans of at most `tokens` scored positions; a plain text's one span is cut."""
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
    return content | ({"text": q.text} if q.text is not None else {})


def _question(content: dict[str, Any]) -> Question:
    return Question(
        content["kind"],
        content["input_ids"],
        [(a, b) for a, b in content["spans"]],
        content["messages"],
        tuple(content["turns"]),
        content.get("text"),
    )
