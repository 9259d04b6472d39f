"""Choosing a model: errors for directories and for runs without a GGUF give advice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.records import Artifact, ExportRecord, Fidelity, Merge
from serve.artifact import ServeError, _artifact, choose
from serve.settings import ServeSettings
from tests.support.published import make_run

SHA = "0" * 64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("export.json", "is a run, not a .gguf file: serve it with `make serve RUN=thing`"),
        ("thing-Q8_0.gguf", "choose one of its files: thing-Q8_0.gguf"),
        ("adapter_config.json", "is an adapter, which must be merged and converted first"),
        ("config.json", "is a transformers checkpoint, not a .gguf file"),
        ("readme.txt", "is a directory: expected a .gguf file"),
    ],
)
def test_directory_as_model_is_a_clear_error(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / name).write_text("{}")
    with pytest.raises(ServeError) as caught:
        choose(ServeSettings(model=str(tmp_path / "thing")))
    assert message in str(caught.value)
    assert len(caught.value.faults) == 1


def test_inconclusive_artifact_is_rejected_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    content = json.loads((run.path / "export.json").read_text())
    content["artefacts"][2] |= {"verdict": "inconclusive", "why": "the KL is 9"}
    (run.path / "export.json").write_text(json.dumps(content))
    with pytest.raises(ServeError, match=r"Q8_0 is inconclusive in its exam: the KL is 9"):
        choose(ServeSettings(runs=str(tmp_path), artifact="Q8_0"))


def test_stale_export_is_rejected(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "train.json").write_text((run.path / "train.json").read_text() + "\n")
    with pytest.raises(ServeError, match="belongs to an earlier training: run `make export RUN=tuned` again"):
        choose(ServeSettings(runs=str(tmp_path)))


def test_run_without_a_gguf_is_rejected_with_a_reason() -> None:
    nothing = Fidelity.model_validate({n: None for n, field in Fidelity.model_fields.items() if field.is_required()})
    merged = Artifact(
        path="merged", kind="safetensors", quantization="F16", bytes=1, sha256=SHA, fidelity=nothing, verdict="pass",
        why="all checks hold",
    )  # fmt: skip
    record = ExportRecord(
        run_id="x", created="2026-01-01T00:00:00Z", train_sha256=SHA,
        merge=Merge(base="original", reason="x", candidates={}),
        artefacts=[merged], default=None, no_gguf="the converter does not know it", chat_template_sha256=None, stop=[],
        context_length=8,
    )  # fmt: skip
    for settings in (ServeSettings(), ServeSettings(allow_unproven=True), ServeSettings(artifact="Q8_0")):
        with pytest.raises(
            ServeError, match="no GGUF file, .*: the converter does not know it; transformers and vLLM load its merged/"
        ):
            _artifact("run 'x'", "report.html", record, settings)
