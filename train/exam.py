"""The trained model's exam: held-out rows and general text, scored with and without the adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import burnish
from burnish.chat import THOUGHT
from burnish.console import Tick, bar
from burnish.exam.rows import Exam, Question, SampleAnswer, choose
from burnish.exam.scores import Compared, Floats, TopLogprobs

from .data.mask import Codec, Row
from .settings import ExamSection

GENERAL_TEXT = Path(burnish.__file__).with_name("general.txt")
NOISE_BATCH = 8
NOISE_TEXTS = 5  # general texts for the noise floor, besides held-out rows; more would only take longer


def questions(heldout: Sequence[Row], codec: Codec, limits: ExamSection) -> list[Question]:
    """Return the exam questions: held-out rows up to the limits, then one-paragraph general texts.

    In a conversation truncated at data.max_length, only turns with an end token are used; plain texts don't need one.
    """
    rows = [
        Question(
            "heldout",
            row.input_ids,
            list(spans),
            _messages(row, codec),
            row.turns[: len(spans)],
            _text(row, codec),
            list(row.example.tools) or None,
        )
        for row in heldout
        if (spans := row.whole if row.example.messages else row.spans)
    ]
    paragraphs = GENERAL_TEXT.read_text(encoding="utf-8").strip().split("\n\n")[: limits.general_rows]
    ids = [[*codec.bos, *codec.encode(text)] for text in paragraphs]
    return choose(rows, limits.rows, limits.tokens) + [Question("general", i, [(1, len(i))]) for i in ids]


@torch.inference_mode()
def examine(model: Any, exam_questions: Sequence[Question], codec: Codec, limits: ExamSection) -> Exam:
    """Score the questions with and without the adapter, and in batches for the noise floor, then generate answers."""
    model.eval()
    # held-out rows come first
    twice = exam_questions[: sum(q.kind == "heldout" for q in exam_questions) + NOISE_TEXTS]
    with bar("exam", 2 * len(exam_questions) + len(twice)) as tick:
        trained = TopLogprobs.join(
            [TopLogprobs.of(logits, q.targets) for q, logits in _score(model, exam_questions, 1, tick, 0)]
        )
        with model.disable_adapter():
            base = [
                TopLogprobs.of(logits, q.targets).true
                for q, logits in _score(model, exam_questions, 1, tick, len(exam_questions))
            ]
        again = _compare(twice, trained, lambda part: _score(model, part, NOISE_BATCH, tick, 2 * len(exam_questions)))
    answers = tuple(
        _answers(
            model, [q for q in exam_questions if q.kind == "heldout"][: limits.answers], codec, limits.answer_tokens
        )
    )
    return Exam(
        list(exam_questions), trained, np.concatenate(base), float(again.kl.mean()), float(again.agree.mean()), answers
    )


def _answers(model: Any, exam_questions: Sequence[Question], codec: Codec, tokens: int) -> Iterator[SampleAnswer]:
    """Answer each question's first turn at temperature 0, with and without the adapter."""
    with bar("answers", len(exam_questions)) as tick:
        for number, question in enumerate(exam_questions):
            start, end = question.spans[0]
            # plain texts without a prompt are continued after the first quarter
            prompted = question.messages or start > len(codec.bos)
            start = start if prompted else max(start, (start + end) // 4, 1)
            prompt = question.input_ids[:start]
            with model.disable_adapter():
                base = _generate(model, prompt, codec, tokens)
            trained = _generate(model, prompt, codec, tokens)
            shown = (
                str(question.messages[question.turns[0] - 1]["content"]) if question.messages else codec.decode(prompt)
            )
            expected = codec.decode([i for i in question.input_ids[start:end][:tokens] if i not in codec.terminators])
            yield SampleAnswer(shown, expected.strip(), base, trained)
            tick(number + 1)


def _generate(model: Any, prompt: list[int], codec: Codec, tokens: int) -> str:
    ids = torch.tensor([prompt], device=model.device)
    generated = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
        eos_token_id=sorted(codec.end_ids), pad_token_id=codec.eos, temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    return codec.decode([i for i in generated[0, len(prompt) :].tolist() if i not in codec.terminators]).strip()


def _compare(
    exam_questions: Sequence[Question],
    trained: TopLogprobs,
    score: Callable[[Sequence[Question]], Iterator[tuple[Question, Floats]]],
) -> Compared:
    parts, start = [], 0
    for question, logits in score(exam_questions):
        end = start + len(question.positions)
        mask = np.zeros(len(trained.true), dtype=bool)
        mask[start:end] = True
        parts.append(Compared.of(logits, trained.take(mask)))
        start = end
    return Compared.join(parts)


def _score(
    model: Any, exam_questions: Sequence[Question], batch: int, tick: Tick, done: int
) -> Iterator[tuple[Question, Floats]]:
    """Yield each question with its logits [positions, vocabulary], in order; `batch` questions share a forward pass."""
    for start in range(0, len(exam_questions), batch):
        part = exam_questions[start : start + batch]
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


def _messages(row: Row, codec: Codec) -> list[dict[str, Any]] | None:
    """Return the messages with normalized characters, as in training, since llama.cpp does not compose accents."""
    messages = [m.to_dict() for m in row.example.messages or ()]
    for message in messages:
        for key in {"content", THOUGHT} & message.keys():
            message[key] = codec.normalise(message[key])
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = codec.normalise(call["function"]["arguments"])
    return messages or None


def _text(row: Row, codec: Codec) -> str | None:
    return codec.normalise(row.example.text) if row.example.text is not None else None
