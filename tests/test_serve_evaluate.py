"""`serve evaluate` compares a run with its untuned base; serve and push enforce its verdict."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from burnish.evaluations.record import read_evaluation
from burnish.run import Run
from tests.support.commands import Cli
from tests.support.training import SHORT, only_fault

pytestmark = pytest.mark.slow
QUIZ = [{"question": f"{n} or {n + 1}?", "a": str(n), "b": str(n + 1), "correct": "AB"[n % 2]} for n in range(8)]
COLUMNS = {"user": "{{ question }} A. {{ a }} B. {{ b }}", "assistant": "{{ correct }}"}


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A trained and exported run with data.columns and a threshold for the evaluation `quiz`."""
    root = tmp_path_factory.mktemp("evaluated")
    config = root / "config.yaml"
    content = {"base": {"id": str(tiny_base)}, "data": {"path": str(quiz(root)), "columns": COLUMNS}}
    config.write_text(json.dumps({**content, "evaluation": {"quiz": ">= 0"}}))  # JSON is YAML
    steps = ("--train.max_steps", "2", "--run.root", str(root), "--run.name", "one")
    done = cli("train", "run", "--config", str(config), *SHORT, *steps)
    assert done.returncode == 0, done.stderr
    done = cli("export", "run", "--run.root", str(root), "--gguf.quants", "Q8_0", "--gate.max_kl", "10")
    assert done.returncode == 0, done.stderr
    return Run(root / "one")


def quiz(directory: Path) -> Path:
    path = directory / "quiz.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUIZ))
    return path


@pytest.fixture(scope="module")
def evaluate(run: Run, cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the evaluation `quiz`."""
    data, cache = quiz(tmp_path_factory.mktemp("quiz")), tmp_path_factory.mktemp("cache")

    def call(*words: str, data: Path = data) -> Any:
        where = ("--runs", str(run.path.parent), "--run", run.id, "--data", str(data), "--allow_unproven", "true")
        return cli("serve", "evaluate", *where, *words, BURNISH_CACHE=str(cache))

    return call


def test_evaluation_of_both_models_is_recorded(run: Run, evaluate: Any) -> None:
    done = evaluate("--score", "f1", "--name", "words", "--max_tokens", "6")
    assert done.returncode == 0, done.stderr
    assert "tuned minus base" in done.stdout
    found = read_evaluation(run, "words")
    assert found.base and found.count == 8 and found.wins + found.ties + found.losses == 8
    assert found.base.sha256 != found.tuned.sha256 and found.base.quantization == found.tuned.quantization
    assert found.base.prompt_tokens == found.tuned.prompt_tokens > 0
    assert len(found.rows) == min(found.differing, 20)
    assert {path.name for path in (run.path / "gguf").iterdir()} == {"one-F16.gguf", "one-Q8_0.gguf"}
    assert stat.S_IMODE((run.path / "evaluations" / "words.json").stat().st_mode) == 0o600
    page = (run.path / "report.html").read_text()
    assert "Evaluations, base and tuned" in page and ">words</td>" in page


def test_choice_scores_by_likelihood_and_a_repeat_uses_cached_results(run: Run, evaluate: Any) -> None:
    words = ("--score", "choice", "--name", "quiz", "--options", "A,B")
    done = evaluate(*words)
    assert done.returncode == 0, done.stderr
    found = read_evaluation(run, "quiz")
    assert found.verdict == "pass" and found.threshold == ">= 0"
    assert all(row.base in "AB" and row.tuned in "AB" and row.expected in "AB" for row in found.rows)
    again = evaluate(*words)
    assert again.returncode == 0 and "loading" not in again.stderr
    assert read_evaluation(run, "quiz").model_dump(exclude={"created"}) == found.model_dump(exclude={"created"})


def test_serve_and_push_reject_a_run_below_its_threshold(run: Run, evaluate: Any, cli: Cli) -> None:
    done = evaluate("--score", "exact", "--name", "strict", "--max_tokens", "4", "--threshold", "> 0.99")
    assert done.returncode == 1 and "serve and push will reject this run" in done.stderr
    root = str(run.path.parent)
    try:
        served = cli("serve", "--runs", root, "--run", "one", "--artifact", "F16", "--port", "0")
        assert "its evaluation 'strict' is 0, required: > 0.99; to serve it anyway" in only_fault(served)
        pushed = cli("export", "push", "--dry-run", "--run.root", root, "--push.repo", "me/model")
        assert pushed.returncode == 2 and "its evaluation 'strict' is 0, required: > 0.99" in pushed.stderr
        # a lower threshold changes only the verdict
        done = evaluate("--score", "exact", "--name", "strict", "--max_tokens", "4", "--threshold", ">= 0")
        assert done.returncode == 0 and "loading" not in done.stderr
        card = cli("export", "card", "--run.root", root, "--push.allow_failed", "true")
        assert "## Evaluations" in card.stdout and "- `strict`: exact on 8 rows" in card.stdout
    finally:
        (run.path / "evaluations" / "strict.json").unlink()


def test_missing_required_evaluation_is_named(run: Run, cli: Cli) -> None:
    (run.path / "evaluations" / "quiz.json").rename(run.path / "quiz.json")
    try:
        served = cli("serve", "--runs", str(run.path.parent), "--run", "one", "--port", "0")
        assert "has no evaluation 'quiz' yet: run `make evaluate NAME=quiz" in only_fault(served)
    finally:
        (run.path / "quiz.json").rename(run.path / "evaluations" / "quiz.json")


@pytest.mark.parametrize(
    ("correct", "fault"),
    [
        ("C", "the correct answer 'C' is not one of the options: A, B"),
        ("", "no assistant turn to compare the answer with"),
    ],
)
def test_unscorable_row_is_reported_before_loading_models(
    correct: str, fault: str, evaluate: Any, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(QUIZ[1]) + "\n" + json.dumps({**QUIZ[0], "correct": correct}) + "\n")
    done = evaluate("--score", "choice", "--options", "A,B", data=path)
    assert done.returncode == 2 and "loading" not in done.stderr
    assert f"line 2: {fault}" in done.stderr


def test_base_gguf_contains_the_untuned_weights(run: Run, tiny_gguf: Path, tmp_path: Path, cli: Cli) -> None:
    from gguf import GGUFReader

    words = ("--run.root", str(run.path.parent), "--gguf.quants", "F16")
    done = cli("export", "base", *words, BURNISH_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    base, untuned, tuned = (
        {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}
        for path in (Path(done.stdout.strip()), tiny_gguf, run.path / "gguf" / "one-F16.gguf")
    )
    assert base == untuned != tuned
    assert [path.name for path in Path(done.stdout.strip()).parent.iterdir()] == ["base-F16.gguf"]


def test_general_suite_is_scored_by_category(run: Run, cli: Cli) -> None:
    where = ("--runs", str(run.path.parent), "--run", run.id, "--allow_unproven", "true", "--base", "none")
    done = cli("serve", "evaluate", *where, "--suite", "general", "--max_tokens", "2")
    assert done.returncode == 0, done.stderr
    found = read_evaluation(run, "general")
    assert found.data == "suite general" and sum(group.rows for group in found.groups.values()) == found.count
    assert {"arithmetic", "facts", "refusals"} <= found.groups.keys() and "facts (51 rows)" in done.stdout
