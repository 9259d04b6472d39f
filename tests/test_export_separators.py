"""Texts with characters that Python treats as line ends are trained, examined, exported and shown unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.exam.rows import Exam
from burnish.records import ExportRecord
from burnish.run import Run
from tests.support.commands import Cli

pytestmark = pytest.mark.slow

SEPARATORS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r\n", "\r")


def test_rows_with_line_separators_are_trained_exported_and_shown(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    """Every row has them in prompt and answer, including the held-out rows."""
    rows = [
        {"prompt": f"Boat{c}{n} for{c}{c}pier {n}?", "completion": f"It{c}leaves at {n}{c}from pier {n}."}
        for n in range(4)
        for c in SEPARATORS
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    where = ("--run.root", str(tmp_path / "runs"), "--run.name", "lines")
    done = cli("train", "run", "--base.id", str(tiny_base), "--data.path", str(data), *where,
               "--data.max_length", "128", "--data.eval_split", "0.5", "--train.max_steps", "2", "--exam.answers", "2",
               "--exam.answer_tokens", "8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "runs" / "lines")
    held = [q for q in Exam.load(run.path / "exam").questions if q.kind == "heldout"]
    texts = {m["content"] for q in held for m in q.messages or []}
    assert len(held) == 18
    assert texts <= {text for row in rows for text in row.values()}
    done = cli("export", "run", *where, "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    artifacts = run.read(ExportRecord).artefacts
    assert [(a.fidelity.prompt_parity, a.fidelity.prompt_parity_why) for a in artifacts] == [(True, "")] * len(
        artifacts
    )
    assert "\u2028" in (run.path / "report.html").read_text(encoding="utf-8")
    done = cli("export", "card", *where)
    assert done.returncode == 0, done.stderr
