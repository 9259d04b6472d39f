"""The trained model sits the exam: held-out rows and general text, scored with the adapter on and off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import burnish
from burnish.console import Tick, bar
from burnish.exam import Answers, Compared, Exam, Floats, Question, choose
from train.mask import Codec, Row
from train.settings import ExamSection

GENERAL_TEXT = Path(burnish.__file__).with_name("general.txt")
NOISE_BATCH = 8


def questions(heldout: Sequence[Row], truncated: Sequence[int], codec: Codec, limits: ExamSection) -> list[Question]:
    """Return the exam's questions: whole held-out rows up to the limits, then the general text, a paragraph each."""
    whole = (row for row in heldout if row.spans and row.example.line not in set(truncated))
    asked = [Question("heldout", row.input_ids, list(row.spans), _messages(row), row.turns) for row in whole]
    paragraphs = GENERAL_TEXT.read_text(encoding="utf-8").strip().split("\n\n")
    ids = [[*codec.bos, *codec.encode(text)] for text in paragraphs]
    return choose(asked, limits.rows, limits.tokens) + [Question("general", i, [(1, len(i))]) for i in ids]


@torch.inference_mode()
def sit(model: Any, asked: Sequence[Question]) -> Exam:
    """Score the questions with the adapter, without it, and once more in batches for the noise floor."""
    model.eval()
    with bar("exam", 3 * len(asked)) as tick:
        trained = Answers.join([Answers.of(logits, q.targets) for q, logits in _score(model, asked, 1, tick, 0)])
        with model.disable_adapter():
            base = [Answers.of(logits, q.targets).true for q, logits in _score(model, asked, 1, tick, len(asked))]
        again = _compare(model, asked, trained, lambda part: _score(model, part, NOISE_BATCH, tick, 2 * len(asked)))
    return Exam(list(asked), trained, np.concatenate(base), float(again.kl.mean()), float(again.agree.mean()))


def _compare(
    model: Any,
    asked: Sequence[Question],
    trained: Answers,
    score: Callable[[Sequence[Question]], Iterator[tuple[Question, Floats]]],
) -> Compared:
    parts, start = [], 0
    for question, logits in score(asked):
        end = start + len(question.positions)
        mask = np.zeros(len(trained.true), dtype=bool)
        mask[start:end] = True
        parts.append(Compared.of(logits, trained.take(mask)))
        start = end
    return Compared.join(parts)


def _score(
    model: Any, asked: Sequence[Question], batch: int, tick: Tick, done: int
) -> Iterator[tuple[Question, Floats]]:
    """Yield each question with its logits [positions, vocabulary], in order, `batch` questions a forward pass."""
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        longest = max(len(q.input_ids) for q in part)
        ids = torch.zeros((len(part), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, question in enumerate(part):
            ids[row, : len(question.input_ids)] = torch.tensor(question.input_ids)
            mask[row, : len(question.input_ids)] = 1
        hidden = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
        for row, question in enumerate(part):
            yield question, hidden[row, question.positions].float().cpu().numpy()
        tick(done + start + len(part))


def _messages(row: Row) -> list[dict[str, Any]] | None:
    return [m.to_dict() for m in row.example.messages] if row.example.messages else None
