"""An artifact stops at every trained end token and nowhere else, also with truncated conversations."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from burnish.exam.rows import Exam, Question
from burnish.exam.scores import TopLogprobs
from burnish.llama import Model
from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run
from export.exam.terminator import Ends, terminator
from tests.support.commands import Cli

END, OTHER_END, COMMA, SPACE = 2, 0, 28, 216
WORDS = {COMMA: ",", SPACE: " ", 100: "hoop", 101: "barrel"}


def exam(*turns: Sequence[int], chat: bool = True) -> Exam:
    """An exam whose rows each have one trained turn, after a prompt of one token."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}] if chat else None
    questions = [
        Question("heldout", [7, *turn], [(1, 1 + len(turn))], messages, (1,) if chat else ()) for turn in turns
    ]
    n = sum(len(q.positions) for q in questions)
    answers = TopLogprobs(np.zeros((n, 1), np.int32), np.zeros((n, 1), np.float32), np.zeros(n, np.float32))
    return Exam(questions, answers, answers.true, 0.0, 1.0)


def ends(own: set[int], recorded: set[int] | None = None) -> Ends:
    return Ends(frozenset(own), frozenset({END} if recorded is None else recorded), lambda i: WORDS.get(i, ""))


def test_terminator_check_passes_if_only_turn_ends_stop() -> None:
    assert terminator(exam([100, 101, END], [101, COMMA, END]), ends({END, OTHER_END})).holds is True


def test_end_token_that_does_not_stop_generation_fails() -> None:
    check = terminator(exam([100, END]), ends({OTHER_END}))
    assert check.holds is False and "trained turns end in token 2, where it does not stop" in check.why


def test_ordinary_text_recorded_as_end_token_fails_even_if_no_turn_contains_it() -> None:
    check = terminator(exam([100, END]), ends({END}, {END, COMMA, 101}))
    assert check.holds is False and "records ordinary text as end tokens" in check.why
    assert "2 tokens (28 ',', 101 'barrel')" in check.why


def test_stop_inside_a_trained_turn_fails() -> None:
    check = terminator(exam([100, OTHER_END, 101, END]), ends({END, OTHER_END}))
    assert check.holds is False and "stops inside trained turns, at 1 tokens (0)" in check.why


def test_two_end_tokens_after_a_turn_are_not_a_stop_inside_it() -> None:
    assert terminator(exam([100, END, SPACE, OTHER_END]), ends({END, OTHER_END}, {OTHER_END})).holds is True


def test_wrong_recorded_end_token_fails_for_plain_text() -> None:
    assert terminator(exam([100, END, 101], chat=False), ends({END})).holds is None
    assert terminator(exam([100, 101], chat=False), ends({END}, {COMMA})).holds is False


WHOLE = 20  # rows of each file that fit into 64 tokens


def one_line(path: Path, seed: int) -> Path:
    """Write sixty chats as minified JSON on one line; two in three exceed 64 tokens and are cut at different places."""
    words, chosen = ["oak,", "stave.", "hoop:", "3", "casks;", "rivet"], random.Random(seed)
    rows = []
    for i in range(60):
        answer = " ".join(chosen.choice(words) for _ in range(8 if i % 3 == 0 else 90))
        turns = {"user": f"Question {seed}-{i}?", "assistant": answer}
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns.items()]})
    path.write_text(json.dumps(rows, separators=(",", ":")))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings of a training with truncated rows."""
    root = tmp_path_factory.mktemp("data")
    train, held = one_line(root / "train.json", 1), one_line(root / "held.json", 2)
    return "--data.path", str(train), "--data.eval_path", str(held), "--data.over_length", "truncate"


@pytest.fixture(scope="module")
def cut(cli: Cli, tiny_base: Path, files: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("runs")
    done = cli("train", "run", "--base.id", str(tiny_base), *files, "--run.root", str(root), "--run.name", "cut",
               "--data.max_length", "64", "--train.max_steps", "2", "--exam.answers", "0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run(root / "cut")


@pytest.mark.slow
def test_truncated_rows_record_only_real_end_tokens(cut: Run, cli: Cli) -> None:
    record, sat = cut.read(TrainRecord), Exam.load(cut.path / "exam")
    assert record.data.model_extra is not None and record.data.model_extra["truncated"] == 2 * (60 - WHOLE)
    assert record.terminators == ["<|im_end|>"]
    questions = [q for q in sat.questions if q.kind == "heldout"]
    assert (
        len(questions) == WHOLE
    )  # by line number, one truncated row would exclude a whole minified file from the exam
    assert all(q.input_ids[end - 1] == END for q in questions for _, end in q.spans)
    done = cli("export", "run", "--run.root", str(cut.path.parent), "--run.name", "cut", "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    export = cut.read(ExportRecord)
    assert export.stop == ["<|im_end|>"]
    assert {a.fidelity.terminator for a in export.artefacts} == {True}
    assert json.loads((cut.path / "merged" / "generation_config.json").read_text())["eos_token_id"] == END


@pytest.mark.slow
def test_wrong_end_token_in_an_old_record_fails_every_artifact(cut: Run, cli: Cli, tmp_path: Path) -> None:
    run = Run(tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    for name in ("adapter", "exam"):
        shutil.copytree(cut.path / name, run.path / name)
    record = cut.read(TrainRecord)
    run.write(record.model_copy(update={"terminators": ["<|im_end|>", ",", ".", "3"]}))
    done = cli("export", "run", "--run.root", str(tmp_path), "--run.name", "cut", "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    export = run.read(ExportRecord)
    assert export.default is None
    for artifact in export.artefacts:
        assert artifact.verdict == "fail" and "train.json records ordinary text as end tokens" in artifact.why
        assert "3 tokens" in artifact.why and "','" in artifact.why


@pytest.mark.slow
def test_data_with_only_truncated_rows_is_rejected(cli: Cli, tiny_base: Path, files: tuple[str, ...]) -> None:
    done = cli("train", "check", "--base.id", str(tiny_base), *files, "--data.max_length", "45")
    assert done.returncode == 2
    assert "every row is cut before its end token, so the model would never learn to stop" in done.stderr
    assert "raise data.max_length (45)" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_gguf_stops_only_at_trained_end_tokens(cut: Run) -> None:
    with Model.open(cut.path / "gguf" / "cut-Q8_0.gguf", vocab_only=True) as model:
        assert END in model.eog_ids()
        assert not any(model.piece(i).strip() for i in model.eog_ids())
