"""A reasoning template and its variables give the same prompt in training, export and serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.exam.rows import Exam
from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run
from tests.support import templates as sources
from tests.support.commands import Cli
from tests.support.server import serving

pytestmark = pytest.mark.slow

VARIABLES: dict[str, Any] = {"enable_thinking": False}


@pytest.fixture(scope="module")
def exported(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    root = tmp_path_factory.mktemp("thoughts")
    (root / "thoughts.jinja").write_text(sources.HYBRID)
    config = root / "train.yaml"
    config.write_text(
        f"base: {{id: {tiny_base}}}\ndata: {{path: {rows}, max_length: 128}}\ntrain: {{max_steps: 4}}\n"
        f"exam: {{answers: 0}}\nrun: {{root: {root}, name: thoughts}}\n"
        f"chat:\n  template: {root / 'thoughts.jinja'}\n  template_kwargs: {{enable_thinking: false}}\n"
    )
    done = cli("train", "run", "--config", str(config))
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", "--run.root", str(root), "--run.name", "thoughts", "--gguf.quants", "Q8_0")
    assert done.returncode == 0, done.stderr
    return Run(root / "thoughts")


def test_template_variables_are_in_both_records_and_prompts_match(exported: Run) -> None:
    record = exported.read(ExportRecord)
    assert exported.read(TrainRecord).template_kwargs == record.template_kwargs == VARIABLES
    assert [(a.kind, a.fidelity.prompt_parity, a.fidelity.terminator, a.verdict) for a in record.artefacts] == [
        ("safetensors", True, True, "pass"), ("gguf", True, True, "pass"), ("gguf", True, True, "pass"),
    ]  # fmt: skip


def test_template_variables_different_from_training_fail_prompt_parity(exported: Run, tmp_path: Path, cli: Cli) -> None:
    """Parity can fail: the exam detects a record with other variables."""
    import shutil

    run = Run(shutil.copytree(exported.path, tmp_path / exported.id))
    for name in ("merged", "gguf", ".export"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    (run.path / "export.json").unlink()
    content = json.loads((run.path / "train.json").read_text())
    (run.path / "train.json").write_text(json.dumps({**content, "template_kwargs": {}}))
    cli("export", "run", "--run.root", str(tmp_path), "--run.name", run.id, "--gguf.quants", "Q8_0")
    assert {a.fidelity.prompt_parity for a in run.read(ExportRecord).artefacts} == {False}


def test_server_uses_trained_template_variables_unless_the_request_sets_them(exported: Run) -> None:
    question = next(q for q in Exam.load(exported.path / "exam").questions if q.messages)
    trained = question.input_ids[: question.spans[0][0]]
    messages = (question.messages or [])[: question.turns[0]]
    with serving(model=None, run=exported.id, runs=exported.path.parent) as server:
        request: dict[str, Any] = {"model": "default", "temperature": 0, "max_tokens": 8}
        chat = server.call("POST", "/v1/chat/completions", {**request, "messages": messages})[2]
        plain = server.call("POST", "/v1/completions", {**request, "prompt": trained})[2]
        assert chat["usage"]["prompt_tokens"] == len(trained)
        assert chat["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
        thinking = {**request, "messages": messages, "chat_template_kwargs": {"enable_thinking": True}}
        other = server.call("POST", "/v1/chat/completions", thinking)[2]["usage"]["prompt_tokens"]
        empty = server.call("POST", "/tokenize", {"content": "<think>\n\n</think>\n\n"})[2]["tokens"]
        assert other == len(trained) - len(empty)
        assert server.call("GET", "/version")[2]["template_kwargs"] == VARIABLES
