"""The exam's figures: KL is a lower bound that is zero for equal models; an exam round-trips through its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.exam.rows import Exam, ExamError, Question, SampleAnswer, choose
from burnish.exam.scores import TOP, Compared, TopLogprobs, log_softmax

VOCABULARY = 200
seeds = st.integers(0, 2**31)


def logits(seed: int, rows: int = 4, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, VOCABULARY)) * scale).astype(np.float32)


@given(seeds, seeds)
@settings(max_examples=50)
def test_kl_with_tail_bucket_is_between_zero_and_full_kl(one: int, two: int) -> None:
    p, q = logits(one), logits(two)
    full = (np.exp(log_softmax(p)) * (log_softmax(p) - log_softmax(q))).sum(1)
    kl = Compared.of(q, TopLogprobs.of(p, [0] * 4)).kl
    assert (kl >= 0).all()
    assert (kl <= full + 1e-4).all()


@given(seeds)
@settings(max_examples=20)
def test_kl_of_a_model_with_itself_is_zero(seed: int) -> None:
    rows = logits(seed)
    compared = Compared.of(rows + 5, TopLogprobs.of(rows, [1, 2, 3, 4]))  # a constant shift changes no probability
    assert compared.kl.max() < 1e-5
    assert compared.agree.all()


def test_worse_model_has_a_larger_kl() -> None:
    rows, noise = logits(1), logits(2, scale=1.0)
    small, large = (float(Compared.of(rows + k * noise, TopLogprobs.of(rows, [0] * 4)).kl.mean()) for k in (0.1, 0.5))
    assert 0 < small < large


def test_log_probability_of_the_true_token_is_kept_outside_the_top_k() -> None:
    rows = logits(3)
    worst = rows.argmin(axis=1)
    answers = TopLogprobs.of(rows, worst.tolist())
    assert answers.ids.shape == (4, TOP)
    assert np.allclose(answers.true, log_softmax(rows)[np.arange(4), worst])
    assert (np.diff(answers.logp, axis=1) <= 0).all()


def question(spans: list[tuple[int, int]], length: int = 20, chat: bool = True) -> Question:
    messages = [{"role": "user", "content": "x"}] if chat else None
    return Question("heldout", list(range(length)), spans, messages, tuple(range(len(spans))) if chat else ())


def test_position_p_predicts_token_p_plus_1() -> None:
    q = question([(5, 8)])
    assert (q.positions, q.targets) == ([4, 5, 6], [5, 6, 7])
    assert question([(0, 3)], chat=False).targets == [1, 2]  # nothing predicts the first token


def test_exam_is_unchanged_after_save_and_load(tmp_path: Path) -> None:
    questions = [question([(5, 8), (10, 12)]), Question("general", [1, 2, 3], [(1, 3)])]
    answers = TopLogprobs.of(logits(4, rows=7), [0] * 7)
    exam = Exam(questions, answers, answers.true * 2, 1e-5, 0.99, (SampleAnswer("hi", "yes", "no", "yes"),))
    exam.save(tmp_path)
    back = Exam.load(tmp_path)
    assert (back.questions, back.samples) == (questions, exam.samples)
    assert (back.trained.ids == answers.ids).all()
    assert (back.base_true == exam.base_true).all()
    assert back.noise_kl == pytest.approx(1e-5)
    assert back.heldout().tolist() == [True] * 5 + [False] * 2


def test_exam_limits_are_respected_without_cutting_a_turn() -> None:
    questions = [question([(5, 8), (10, 15)]), question([(5, 8)])]
    chosen = choose(questions, rows=2, tokens=5)
    assert [q.spans for q in chosen] == [[(5, 8)]] or sum(len(q.positions) for q in chosen) <= 5
    assert len(choose(questions * 40, rows=64, tokens=10**6)) == 64
    assert len(choose([question([(0, 20)], chat=False)], 1, 7)[0].positions) == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", None), ("rows.jsonl", b"{"), ("rows.jsonl", b"[1]\n"), ("rows.jsonl", b"[" * 100_000),
        ("rows.jsonl", b"\xff"), ("rows.jsonl", b'{"kind": "heldout", "input_ids": [1], "spans": [[0, 9]]}\n'),
        ("reference.safetensors", None), ("reference.safetensors", b"\xff" * 100), ("answers.json", b"[{}]"),
        ("answers.json", b"1"),
    ],
)  # fmt: skip
def test_damaged_exam_is_a_one_line_error(name: str, content: bytes | None, tmp_path: Path) -> None:
    rows = logits(4)
    item = question([(1, 5)])
    exam = Exam([item], TopLogprobs.of(rows, item.targets), np.zeros(4, np.float32), 0.0, 1.0)
    exam.save(tmp_path)
    assert len(Exam.load(tmp_path).questions) == 1
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExamError, match="the exam can't be read: .*: restore it, or train again") as caught:
        Exam.load(tmp_path)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("spans", [[(1, 6)], [(0, 30)], [(5, 2)]])
def test_reference_answers_from_a_different_exam_are_rejected(spans: list[tuple[int, int]], tmp_path: Path) -> None:
    rows = logits(4)
    exam = Exam([question(spans)], TopLogprobs.of(rows, [0] * 4), np.zeros(4, np.float32), 0.0, 1.0)
    exam.save(tmp_path)
    with pytest.raises(ExamError, match="positions|invalid ids or spans"):
        Exam.load(tmp_path)
