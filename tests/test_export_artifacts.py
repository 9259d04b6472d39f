"""Artifacts are created and examined once, again after changes; a GGUF is never better than its merge."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish.files import file_sha256
from burnish.records import Artifact, Fidelity, Kind, Merge
from burnish.records.verdicts import judged
from burnish.run import Run
from export.artifacts import Finished, Made, produce
from export.merged import Merged
from export.settings import GateSection

FIDELITY = Fidelity(
    kl=1e-3, kl_ci=(0.0, 2e-3), kl_trained=1e-3, top1_agreement=1.0, top1_agreement_ci=(1.0, 1.0), loss=1.0,
    loss_trained=1.0, loss_base=2.0, prompt_parity=True, terminator=True, rows=10,
)  # fmt: skip


@dataclass
class Fake:
    """A format that writes one small file and records its calls."""

    path: str = "gguf/a-Q8_0.gguf"
    kind: Kind = "gguf"
    calls: list[str] = field(default_factory=list)

    def make(self, target: Path) -> Made:
        self.calls.append("make")
        target.parent.mkdir(exist_ok=True)
        target.write_text("weights")
        return Made("Q8_0", {"q4_K -> q5_0": 3})

    def examine(self, path: Path) -> Fidelity:
        self.calls.append("examine")
        assert path.read_text() == "weights"
        return FIDELITY


def job(path: Path, **key: Any) -> Any:
    return SimpleNamespace(run=Run(path), finished=Finished.load(Run(path), key))


def test_artifact_description_contains_path_type_and_figures(tmp_path: Path) -> None:
    made = produce(job(tmp_path), Fake())
    assert (made.path, made.kind, made.quantization, made.bytes) == ("gguf/a-Q8_0.gguf", "gguf", "Q8_0", 7)
    assert made.sha256 == file_sha256(tmp_path / made.path)
    assert made.fidelity == FIDELITY and made.fallbacks == {"q4_K -> q5_0": 3}


@pytest.mark.parametrize("changed", ["figure", "seal", "none"])
def test_figures_with_an_invalid_seal_are_measured_again(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(job(tmp_path), Fake())
    path = tmp_path / ".export" / "kept.json"
    kept = json.loads(path.read_text())
    if changed == "figure":
        kept["artifacts"]["gguf/a-Q8_0.gguf"]["fidelity"]["kl"] = 0.5
    else:
        kept["seal"] = "0" * 64 if changed == "seal" else None
    path.write_text(json.dumps(kept))
    again = Fake()
    assert produce(job(tmp_path), again).fidelity == FIDELITY
    assert again.calls == ["make", "examine"]
    assert ": all artifacts are created and measured again" in capsys.readouterr().err


def test_metrics_from_a_different_machine_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    produce(job(tmp_path / "run"), Fake())
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "elsewhere"))
    again = Fake()
    produce(job(tmp_path / "run"), again)
    assert again.calls == ["make", "examine"]


def test_missing_seal_key_measures_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    produce(job(tmp_path / "run"), Fake())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "file"))
    again = Fake()
    produce(job(tmp_path / "run"), again)
    assert again.calls == ["make", "examine"] and "has a seal that can't be verified" in capsys.readouterr().err


def test_unchanged_artifacts_are_reused(tmp_path: Path) -> None:
    first, second = Fake(), Fake()
    assert produce(job(tmp_path), first) == produce(job(tmp_path), second)
    assert (first.calls, second.calls) == (["make", "examine"], [])


@pytest.mark.parametrize("change", ["content", "removed", "key"])
def test_changed_artifacts_are_created_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / produce(job(tmp_path), Fake()).path
    if change == "content":
        path.write_text("other")
    elif change == "removed":
        path.unlink()
    again = Fake()
    produce(job(tmp_path, **({"merge": "other"} if change == "key" else {})), again)
    assert again.calls == ["make", "examine"]


@pytest.mark.parametrize(
    ("change", "kept"),
    [("nothing", True), ("content", False), ("removed", False), ("key", False), ("other run", False)],
)
def test_unchanged_gguf_of_an_earlier_export_is_kept(tmp_path: Path, change: str, kept: bool) -> None:
    """A different type is requested, but the file still exists and serve may load it."""
    run_id = "other" if change == "other run" else tmp_path.name
    earlier = produce(job(tmp_path), Fake(f"gguf/{run_id}-Q8_0.gguf"))
    if change == "content":
        (tmp_path / earlier.path).write_text("other")
    elif change == "removed":
        (tmp_path / earlier.path).unlink()
    later = job(tmp_path, **({"merge": "other"} if change == "key" else {}))
    made = produce(later, Fake(f"gguf/{tmp_path.name}-Q4_K_M.gguf"))
    produce(later, Fake("merged", "safetensors"))
    assert later.finished.others(Run(tmp_path), [made.path]) == ([earlier] if kept else [])


def test_finished_merge_is_reused_with_its_base(tmp_path: Path) -> None:
    examined = produce(job(tmp_path), Fake("merged", "safetensors"))
    merge = Merge(
        base="original", reason="set by merge.base", candidates={"original": FIDELITY.model_dump(mode="json")}
    )
    merged = Merged(**{**dict(examined), "merge": merge})
    job(tmp_path).finished.add(merged)
    assert job(tmp_path).finished.find(Run(tmp_path), "merged", Merged) == merged
    assert set(judged(merged, GateSection()).model_dump()) == set(Artifact.model_fields)


@pytest.mark.parametrize(
    ("change", "verdict", "message"),
    [
        ({}, "pass", "all checks hold"),
        ({"terminator": False}, "fail", "the merge it was made from fails: terminator: it does not hold"),
        ({"kl": 0.09, "kl_ci": (0.05, 0.2)}, "inconclusive", "the merge it was made from is inconclusive: KL"),
    ],
)
def test_gguf_verdict_is_never_better_than_that_of_its_merge(
    tmp_path: Path, change: dict[str, Any], verdict: str, message: str
) -> None:
    gguf = produce(job(tmp_path), Fake())
    merge = judged(gguf.model_copy(update={"fidelity": FIDELITY.model_copy(update=change)}), GateSection())
    found = judged(gguf, GateSection(), merge)
    assert (found.verdict, found.why[: len(message)]) == (verdict, message)
