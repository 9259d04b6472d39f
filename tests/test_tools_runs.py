"""make runs, make compare and make prune: every run is listed, and nothing in use is deleted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish import lock, report
from burnish.evaluations.gate import unmet
from burnish.evaluations.record import Evaluation, read_evaluation, write_evaluation
from burnish.files import text_sha256
from burnish.llama import Model
from burnish.overview.summary import summaries
from burnish.records import ExportRecord
from burnish.run import Run, RunError
from serve.evaluate.stage import unanswered
from tests.support.commands import ROOT, own_environment
from tests.support.published import make_run
from tests.support.server import serving, small_model
from tools.runs.prune import candidates, prune


def runs(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.runs", *words], cwd=ROOT, env=own_environment(), input=stdin, capture_output=True,
        text=True,
    )  # fmt: skip


def evaluated(run: Run, score: float, name: str = "quiz", **more: Any) -> Evaluation:
    """Write an evaluation of the run's default file."""
    export = run.read(ExportRecord)
    served = next(a for a in export.artefacts if a.path == export.default)
    model = {"model": "m.gguf", "quantization": "Q8_0", "prompt_tokens": 9, "completion_tokens": 5, "seconds": 1.5}
    rows = [{"row": "line 1", "prompt": "<b>?", "expected": "B", "base": "A", "tuned": "B", "base_score": 0.0,
             "tuned_score": 1.0}]  # fmt: skip
    content = {
        "run_id": run.id, "created": "2026-11-29T12:00:00Z", "name": name, "score": "exact", "data": "quiz.csv",
        "data_sha256": "0" * 64, "count": 10, "request": {}, "export_sha256": "1" * 64, "difference": 0.5,
        "tuned": {**model, "sha256": served.sha256, "score": score},
        "base": {**model, "sha256": "2" * 64, "score": 0.1}, "rows": rows, **more,
    }  # fmt: skip
    made = Evaluation.model_validate(content)
    write_evaluation(run, made)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two exported runs, an unfinished one, a damaged one, and a directory that is not a run."""
    for name in ("one", "two"):
        make_run(tmp_path, name)
        (tmp_path / name / "checkpoints").mkdir()
        (tmp_path / name / "checkpoints" / "model.bin").write_bytes(bytes(3_000_000))
    for name, file, text in (("half", "config.yaml", "{}"), ("bad", "train.json", "{"), ("notes", "mine.txt", "keep")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    (tmp_path / "latest").symlink_to("two")
    return tmp_path


def test_list_shows_every_run_and_the_page_links_their_reports(root: Path) -> None:
    evaluated(Run(root / "one"), 0.75, threshold=">= 0.5", verdict="pass")
    report.write(Run(root / "one"))
    done = runs("list", "--root", str(root))
    assert done.returncode == 0, done.stderr
    lines = {
        name: line for line in done.stdout.splitlines() for name in ("one", "two", "half", "bad") if f" {name} " in line
    }
    assert set(lines) == {"one", "two", "half", "bad"} and "notes" not in done.stdout
    assert "quiz 0.750 pass" in lines["one"] and "exported" in lines["two"]
    assert "not trained" in lines["half"] and "damaged: " in lines["bad"]
    page = (root / "index.html").read_text()
    assert '<a href="one/report.html">one</a>' in page and "two/report.html" not in page and "damaged: " in page


def test_compare_prints_the_differences(root: Path) -> None:
    path = root / "two" / "config.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora": {"r": 64}}))
    evaluated(Run(root / "two"), 0.75)
    done = runs("compare", "one,two", "--root", str(root))
    assert done.returncode == 0, done.stderr
    assert "lora.r" in done.stdout and "64" in done.stdout and "base.quantization" not in done.stdout
    assert "evaluation quiz" in done.stdout and "0.7500 (base 0.1000)" in done.stdout
    assert runs("compare", "one", "--root", str(root)).returncode == 2
    assert "no run 'three'" in runs("compare", "one,three", "--root", str(root)).stderr


def test_prune_asks_for_confirmation(root: Path) -> None:
    done = runs("prune", "--root", str(root), stdin="y\n")  # not a terminal
    assert done.returncode == 2 and "YES=1" in done.stderr
    assert (root / "one" / "checkpoints").is_dir() and "one/checkpoints" in done.stdout


def test_prune_deletes_only_files_unneeded_by_finished_runs(root: Path) -> None:
    before = {path.relative_to(root) for path in root.rglob("*") if "checkpoints" not in path.parts}
    done = runs("prune", "--root", str(root), "--yes")
    assert done.returncode == 0 and "6.0 MB freed" in done.stderr
    assert "RUNS=half deletes them" in done.stderr
    after = {path.relative_to(root) for path in root.rglob("*") if path.name != lock.LOCK}
    assert after == before


def test_prune_skips_runs_in_use(root: Path) -> None:
    with lock.hold(root / "one", "training"):
        done = runs("prune", "one,two", "--root", str(root), "--yes")
    assert "run 'one' is in use: skipped" in done.stderr
    assert (root / "one" / "checkpoints" / "model.bin").is_file()
    assert not (root / "two").exists() and not (root / "latest").is_symlink()


def test_prune_skips_a_run_that_is_served(tmp_path: Path) -> None:
    with Model.open(small_model(), vocab_only=True) as model:
        template = text_sha256(model.chat_template or "")
    run = make_run(tmp_path, "served", model=small_model(), chat_template_sha256=template)
    with serving(model=None, runs=tmp_path, run="served"):
        done = runs("prune", "served", "--root", str(tmp_path), "--yes")
        assert "run 'served' is in use by a server or another command: skipped" in done.stderr
        assert run.has(ExportRecord)
        with lock.hold(run.path, "an evaluation"):  # may go on beside the server
            pass
    assert runs("prune", "served", "--root", str(tmp_path), "--yes").returncode == 0
    assert not run.path.exists()


def test_run_is_not_deleted_between_question_and_answer_if_it_is_loaded_then(root: Path) -> None:
    found = candidates([one for one in summaries(root) if one.run.id == "one"], whole=True)
    with lock.using(root / "one"):
        assert prune(found, yes=True) == 0
        assert (root / "one" / "export.json").is_file()


@pytest.mark.parametrize("name", ["notes", "../outside", "latest", "/tmp", "."])
def test_prune_ignores_entries_that_are_not_runs(name: str, root: Path) -> None:
    (root.parent / "outside").mkdir(exist_ok=True)
    (root.parent / "outside" / "config.yaml").write_text("{}")
    done = runs("prune", name, "--root", str(root), "--yes")
    assert done.returncode == 2 and f"no run '{name}'" in done.stderr
    assert (root / "notes" / "mine.txt").is_file() and (root.parent / "outside" / "config.yaml").is_file()


def test_prune_does_not_follow_links_out_of_a_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept").write_text("x")
    (root / "one" / "checkpoints" / "link").symlink_to(outside)
    runs("prune", "--root", str(root), "--yes")
    assert not (root / "one" / "checkpoints").exists() and (outside / "kept").is_file()


def test_list_sorts_runs_and_shows_sizes(root: Path) -> None:
    found = summaries(root)
    assert {one.run.id for one in found} == {"one", "two", "half", "bad"}
    assert all(one.size > 3_000_000 for one in found if one.run.id in ("one", "two"))


def requires(run: Run, threshold: str) -> None:
    path = run.path / "config.yaml"
    path.write_text(json.dumps({**json.loads(path.read_text()), "evaluation": {"quiz": threshold}}))


def test_required_score_must_be_measured_on_this_export(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    export = run.read(ExportRecord)
    assert unmet(run, export) == []
    requires(run, ">= 0.8")
    assert "has no evaluation 'quiz' yet" in unmet(run, export)[0]
    evaluated(run, 0.79)
    assert "is 0.79, required: >= 0.8" in unmet(run, export)[0]
    made = evaluated(run, 0.8)
    assert unmet(run, export) == []
    other = made.model_copy(update={"tuned": made.tuned.model_copy(update={"sha256": "f" * 64})})
    write_evaluation(run, other)
    assert "belongs to a different export" in unmet(run, export)[0]


def test_threshold_in_an_evaluation_record_is_enforced(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated(run, 0.3, threshold="> 0.5", verdict="fail")
    assert "required: > 0.5" in unmet(run, run.read(ExportRecord))[0]


@pytest.mark.parametrize("change", [{"tuned": None}, {"threshold": "0.8"}, {"difference": 7}, {"name": "../x"}])
def test_damaged_evaluation_is_an_error_naming_its_field(change: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated(run, 0.5)
    path = run.path / "evaluations" / "quiz.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=f"evaluations/quiz.json: {next(iter(change))}"):
        read_evaluation(run, "quiz")


def test_verdict_that_counts_failed_rows_has_a_warning(tmp_path: Path) -> None:
    made = evaluated(make_run(tmp_path), 0.9, threshold="> 0.5", verdict="pass")
    assert unanswered(made) == ""
    failed = made.model_copy(update={"tuned": made.tuned.model_copy(update={"failed": 2})})
    assert "counts 2 rows that failed as 0: run the same command again" in unanswered(failed)


def test_report_escapes_the_rows_that_differ(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated(run, 0.75, threshold=">= 0.5", verdict="pass")
    page = report.write(run).read_text()
    assert "quiz: rows that differ (1)" in page and "&lt;b&gt;?" in page and "pass (required: &gt;= 0.5)" in page
