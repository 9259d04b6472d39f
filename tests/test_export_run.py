"""python -m export run on a tiny real run: artifacts, reuse, rejections, and recovery after a kill."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from burnish.llama import Model
from burnish.records import ExportRecord, TrainRecord
from burnish.run import Run
from tests.support.commands import GENERAL_ROWS, Cli, Start, fork, kill_after, kill_at, start_fresh
from tests.support.thorough import some

pytestmark = pytest.mark.slow

SHORT = ("--data.max_length", "128", "--train.max_steps", "4", "--exam.answers", "0")


def trained(cli: Cli, base: Path, rows: Path, root: Path, name: str, *more: str) -> Run:
    done = cli("train", "run", "--base.id", str(base), "--data.path", str(rows), "--run.root", str(root),
               "--run.name", name, *SHORT, *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Run(root / name)


def exporting(run: Run, *more: str) -> list[str]:
    return ["export", "run", "--run.root", str(run.path.parent), "--run.name", run.id, *more]


@pytest.fixture(scope="module")
def source(tiny_base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A trained run without an export; tests copy it."""
    return trained(cli, tiny_base, rows, tmp_path_factory.mktemp("runs"), "source")


@pytest.fixture(scope="module")
def exported(source: Run, tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    run = copy(source, tmp_path_factory.mktemp("exported"))
    done = cli(*exporting(run, "--gguf.quants", "Q8_0"))
    assert done.returncode == 0, done.stderr
    return run


def copy(run: Run, root: Path) -> Run:
    shutil.copytree(run.path, root / run.id)
    return Run(root / run.id)


def hashes(run: Run) -> dict[str, str]:
    return {a.path: a.sha256 for a in run.read(ExportRecord).artefacts}


def test_every_artifact_is_recorded_with_its_figures(exported: Run) -> None:
    record, train = exported.read(ExportRecord), exported.read(TrainRecord)
    assert [(a.kind, a.quantization) for a in record.artefacts] == [
        ("safetensors", "F16"), ("gguf", "F16"), ("gguf", "Q8_0")
    ]  # fmt: skip
    for artifact in record.artefacts:
        fidelity = artifact.fidelity
        assert (fidelity.prompt_parity, fidelity.terminator) == (True, True)
        assert fidelity.kl is not None
        assert fidelity.kl < 0.01
        assert fidelity.top1_agreement is not None
        assert fidelity.top1_agreement > 0.9
    assert record.default == "gguf/source-Q8_0.gguf"
    assert record.stop == ["<|im_end|>"]
    assert record.context_length == 512
    assert record.chat_template_sha256 == train.chat_template_sha256


def test_chat_template_is_stored_in_merged_and_gguf(exported: Run) -> None:
    template = (exported.path / "adapter" / "chat_template.jinja").read_text()
    assert (exported.path / "merged" / "chat_template.jinja").read_text() == template
    with Model.open(exported.path / "gguf" / "source-Q8_0.gguf") as model:
        assert model.chat_template == template


def test_repeated_export_reuses_files_and_adds_only_new_types(exported: Run, tmp_path: Path, cli: Cli) -> None:
    run = copy(exported, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.suffix in (".gguf", ".safetensors")}
    done = cli(*exporting(run, "--gguf.quants", "Q8_0,Q5_0"))
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert hashes(run).keys() - hashes(exported).keys() == {"gguf/source-Q5_0.gguf"}
    after = hashes(run)
    strict = cli(*exporting(run, "--gguf.quants", "F16", "--gate.max_kl", "1e-12"))
    assert strict.returncode == 0, strict.stderr
    assert "kept from earlier exports, unchanged: gguf/source-Q5_0.gguf, gguf/source-Q8_0.gguf" in strict.stderr
    assert hashes(run) == after, "what was made before stays in the record, judged by today's thresholds"
    assert {a.verdict for a in run.read(ExportRecord).artefacts if a.quantization == "Q5_0"} != {"pass"}


@pytest.mark.parametrize(
    ("appears", "start"), some([(".export/original", fork), ("gguf/source-F16.gguf", start_fresh)], [1])
)
def test_killed_export_resumes_to_the_same_hashes(
    appears: str, start: Start, exported: Run, source: Run, tmp_path: Path, cli: Cli
) -> None:
    """Also in new interpreters, with different string hash seeds."""
    run = copy(source, tmp_path)
    command = exporting(run, "--gguf.quants", "Q8_0")
    kill_after(command, run.path / appears, start)
    assert not run.has(ExportRecord)
    done = (cli.fresh if start is start_fresh else cli)(*command)
    assert done.returncode == 0, done.stderr
    assert hashes(run) == hashes(exported)
    assert not list(run.path.rglob("*.partial"))


def test_export_killed_at_ten_random_times_resumes_to_the_same_hashes(
    exported: Run, source: Run, tmp_path: Path, cli: Cli
) -> None:
    run, moments = copy(source, tmp_path), random.Random(0)
    command = exporting(run, "--gguf.quants", "Q8_0")
    started = time.monotonic()
    assert cli(*exporting(copy(source, tmp_path / "timed"), "--gguf.quants", "Q8_0")).returncode == 0
    whole = time.monotonic() - started
    for _ in range(10):
        kill_at(command, moments.uniform(0.2, 1.0) * whole)
        assert not list(run.path.glob("merged/*.partial"))
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert hashes(run) == hashes(exported)


def test_exact_merge_of_a_smoke_run_passes_and_records_have_versions(exported: Run) -> None:
    """Four steps improve the loss by less than 16-bit rounding, so the lost fraction is not judged."""
    record = exported.read(ExportRecord)
    merged, f16 = record.artefacts[:2]
    assert (merged.verdict, f16.verdict) == ("pass", "pass") and "gain not judged" in merged.why
    fidelity = merged.fidelity
    assert (fidelity.rows, fidelity.general_rows) == (2, GENERAL_ROWS)
    assert fidelity.kl_ci is not None and 0 <= fidelity.kl_ci[0] <= fidelity.kl_ci[1] < 1e-3
    assert fidelity.loss_general_base is not None and fidelity.loss_general_base_ci is not None
    assert record.gate == {"max_kl": 0.1, "min_top1": 0.88, "max_gain_lost": 0.2, "min_gain": 0.05}
    for versions in (record.versions, exported.read(TrainRecord).versions):
        assert {"burnish", "llama_cpp", "torch", "transformers", "peft"} <= set(versions)


def test_looser_thresholds_are_reported_and_removing_them_rejudges(exported: Run, tmp_path: Path, cli: Cli) -> None:
    run = copy(exported, tmp_path)
    done = cli(*exporting(run, "--gguf.quants", "Q8_0", "--gate.max_kl", "1000"))
    assert done.returncode == 0, done.stderr
    message = "judged with looser thresholds than the defaults: max_kl 1000 (default 0.1)"
    assert f"gate: {message}" in done.stdout and message in (run.path / "report.html").read_text()
    assert run.read(ExportRecord).gate["max_kl"] == 1000
    assert hashes(run) == hashes(exported)
    strict = cli(*exporting(run, "--gguf.quants", "Q8_0", "--gate.max_kl", "1e-12"))
    assert strict.returncode == 0, strict.stderr
    assert run.read(ExportRecord).default is None and "looser" not in strict.stdout
    assert cli(*exporting(run, "--gguf.quants", "Q8_0")).returncode == 0
    record = run.read(ExportRecord)
    assert record.default == exported.read(ExportRecord).default and record.gate["max_kl"] == 0.1


def test_merging_into_4_bits_is_rejected_with_a_reason(source: Run, cli: Cli) -> None:
    done = cli(*exporting(source, "--merge.dtype", "nf4"))
    assert done.returncode == 2
    assert "merging into 4 bits is not supported: rounding can erase" in done.stderr


def test_changed_artifact_is_created_again(exported: Run, tmp_path: Path, cli: Cli) -> None:
    run = copy(exported, tmp_path)
    gguf = run.path / "gguf" / "source-Q8_0.gguf"
    gguf.write_bytes(gguf.read_bytes()[:-1] + b"x")
    assert cli(*exporting(run, "--gguf.quants", "Q8_0")).returncode == 0
    assert hashes(run) == hashes(exported)


def test_nf4_run_examines_both_merge_bases(tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> None:
    run = trained(cli, tiny_base, rows, tmp_path, "nf4", "--base.quantization", "nf4")
    train = run.read(TrainRecord)
    assert (train.quantization, train.double_quant) == ("nf4", True)
    assert "model.embed_tokens" in train.skipped_modules
    done = cli(*exporting(run, "--gguf.quants", "Q8_0"))
    assert done.returncode == 0, done.stderr
    record = run.read(ExportRecord)
    assert set(record.merge.candidates) == {"dequantized", "original"}
    assert "against" in record.merge.reason
    dequantized, original = (record.merge.candidates[name]["kl_trained"] for name in ("dequantized", "original"))
    assert dequantized < original / 10  # the weights that the adapter saw reproduce the trained model


def test_plain_text_rows_train_and_export(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"The {i}th barrel holds {i} litres of rain."}) + "\n" for i in range(30))
    )
    run = trained(cli, tiny_base, path, tmp_path, "text")
    done = cli(*exporting(run, "--gguf.quants", "Q8_0"))
    assert done.returncode == 0, done.stderr
    record = run.read(ExportRecord)
    assert record.chat_template_sha256 is None
    assert {a.fidelity.prompt_parity for a in record.artefacts} == {True}


def test_moved_base_can_be_set_and_a_different_base_is_rejected(
    source: Run, tiny_base: Path, tmp_path: Path, cli: Cli
) -> None:
    run = copy(source, tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(tiny_base, moved)
    record = json.loads((run.path / "train.json").read_text())
    record["base"]["id"] = "/gone/tiny"
    (run.path / "train.json").write_text(json.dumps(record))
    done = cli(*exporting(run))
    assert done.returncode == 2
    assert "/gone/tiny: no such file or directory" in done.stderr
    assert cli(*exporting(run, "--run.base", str(moved), "--gguf.quants", "Q8_0")).returncode == 0
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    done = cli(*exporting(run, "--run.base", str(moved)))
    assert done.returncode == 2
    assert "is not the base that this run was trained on" in done.stderr


def test_changed_adapter_and_unknown_type_are_rejected_before_merging(source: Run, tmp_path: Path, cli: Cli) -> None:
    run = copy(source, tmp_path)
    done = cli(*exporting(run, "--gguf.quants", "Q4_KM,Q8_0"))
    assert done.returncode == 2
    assert "no type 'Q4_KM'; did you mean 'Q4_K_M'?" in done.stderr
    (run.path / "adapter" / "chat_template.jinja").write_text("{{ 'edited' }}")
    done = cli(*exporting(run))
    assert done.returncode == 2
    assert "adapter has changed since training" in done.stderr
    assert not (run.path / "merged").exists()


def test_export_without_a_run_suggests_the_train_command(tmp_path: Path, cli: Cli) -> None:
    done = cli("export", "run", "--run.root", str(tmp_path))
    assert done.returncode == 2
    assert "make train DATA=..." in done.stderr
