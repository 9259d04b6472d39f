"""The user's make commands, as in the README, with a tiny real model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run
from tests.support.commands import ROOT, free_port
from tests.support.server import made
from tests.support.terminal import CTRL_C, terminal

pytestmark = pytest.mark.slow
LIMIT_S = 600


def make(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", f"VENV={sys.prefix}", "RUNNER=local", *arguments],
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run created by `make train` and `make export`."""
    root = tmp_path_factory.mktemp("runs")
    steps = f"--train.max_steps 2 --exam.answers 0 --run.root {root}"
    done = make("train", f"DATA={rows}", f"BASE={tiny_base}", "RUN=made", f"SET={steps}")
    assert done.returncode == 0, done.stderr
    done = make("export", "RUN=made", "QUANTS=Q8_0", f"SET=--run.root {root} --gate.max_kl 10")
    assert done.returncode == 0, done.stderr
    return Run(root / "made")


@pytest.fixture
def port(run: Run) -> Iterator[int]:
    """A server started by `make serve`."""
    port = free_port()
    words = ["serve", "RUN=made", f"PORT={port}", f"SET=--runs {run.path.parent}"]
    with made(["make", f"VENV={sys.prefix}", "RUNNER=local", *words]):
        yield port


def test_make_alone_prints_the_commands() -> None:
    done = make()
    assert done.returncode == 0
    for verb in ("quickstart", "ship", "test", "check", "plan", "train", "export", "serve", "chat"):
        assert f"make {verb} " in done.stdout


def test_make_check_previews_the_data(rows: Path) -> None:
    done = make("check", f"DATA={rows}")
    assert done.returncode == 0, done.stderr
    assert "⟦assistant says" in done.stdout


def test_exam_uses_all_general_texts_by_default(run: Run) -> None:
    assert run.read(TrainRecord).exam.general_rows == 30


def test_make_plan_prints_memory_disk_and_time(rows: Path, tiny_base: Path) -> None:
    done = make("plan", f"DATA={rows}", f"BASE={tiny_base}", "CONFIG=configs/quickstart.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("plan: ") == 5


def test_make_train_and_export_create_a_run(run: Run) -> None:
    assert run.read(ExportRecord).artefacts
    assert (run.path / "report.html").is_file()


def test_make_examine_prints_a_verdict(run: Run) -> None:
    file = run.path / "gguf" / "made-F16.gguf"
    done = make("examine", f"FILE={file}", "RUN=made", f"SET=--run.root {run.path.parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass" in done.stdout


def test_make_chat_talks_to_make_serve(port: int) -> None:
    done = make("chat", f"PORT={port}", stdin="hello\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_make_ship_resumes_after_ctrl_c_and_serves(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    port, gate = free_port(), "--gate.max_kl 10 --gate.max_gain_lost 1000"
    steps = "--train.max_steps 12 --train.save_steps 2 --exam.answers 0 --exam.general_rows 4"
    words = [f"DATA={rows}", f"BASE={tiny_base}", "CONFIG=configs/quickstart.yaml", f"PORT={port}", "QUANTS=Q8_0"]
    settings = f"SET={steps} {gate} --run.root {tmp_path} --serve.context_length 256"
    command = ["make", f"VENV={sys.prefix}", "RUNNER=local", "ship", *words, settings]
    with terminal(command, ROOT, os.environ) as first:
        first.wait_for("Continue? [y/N]", LIMIT_S)
        assert not (tmp_path / "rows").exists()
        first.press("y\n")
        first.wait_until((tmp_path / "rows" / "checkpoints" / "checkpoint-2" / "complete").exists, LIMIT_S)
        first.press(CTRL_C)
        assert first.wait(LIMIT_S) != 0 and "run the same command again to continue" in first.output
    assert not (tmp_path / "rows" / "train.json").exists()
    with terminal([*command, "YES=1"], ROOT, os.environ) as again:
        again.wait_for("ready: http", LIMIT_S)
        assert "resuming from the checkpoint at step" in again.output
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=5).json()["data"][0]["id"] == "rows"
        again.press(CTRL_C)
        again.wait(LIMIT_S)
    assert "Traceback" not in first.output + again.output


def test_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = make("train", "DATA=nowhere.jsonl", f"SET=--run.root {tmp_path}")
    assert done.returncode != 0
    assert "error: data.path nowhere.jsonl: no such file" in done.stderr
    assert "Traceback" not in done.stderr
