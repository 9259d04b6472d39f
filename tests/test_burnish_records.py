"""Records are read strictly: bounded fields, paths inside the run, and verdicts that match their figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.fields import inside
from burnish.records import ExportRecord, PushRecord, TrainRecord
from burnish.records.reading import MAX_BYTES, RecordError, parse
from burnish.run import Run, RunError, read_both
from serve.artifact import choose
from serve.settings import ServeSettings
from tests.support.published import make_run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("good"))


def export_of(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.path / "export.json").read_text())
    return content


def faults(content: dict[str, Any], kind: type[Any] = ExportRecord) -> list[str]:
    with pytest.raises(RecordError) as caught:
        parse(kind, json.dumps(content).encode())
    return caught.value.faults


def with_figures(run: Run, number: int = 1, verdict: str = "pass", **figures: Any) -> Any:
    content = export_of(run)
    artifact = content["artefacts"][number]
    artifact["verdict"] = verdict
    artifact["fidelity"] |= figures
    return content


def test_every_error_in_a_record_is_one_line(good: Run) -> None:
    content = export_of(good) | {"context_length": -5, "stop": [""]}
    content["artefacts"][1]["path"] = "../../etc/passwd"
    content["artefacts"][2]["bytes"] = 1.5
    found = faults(content)
    assert [fault.split(":")[0] for fault in found] == [
        "artefacts.1.path", "artefacts.2.bytes", "stop.0", "context_length",
    ]  # fmt: skip
    assert '"../../etc/passwd"' in found[0] and "found -5" in found[3]


def test_newer_record_version_is_the_only_error_reported(good: Run) -> None:
    (found,) = faults(export_of(good) | {"schema_version": 2, "artefacts": "elsewhere"})
    assert "schema_version: 2 was written by a newer Burnish, this one reads 1: update Burnish" in found


def test_unknown_fields_are_kept(good: Run) -> None:
    content = export_of(good) | {"later": {"x": [1]}}
    record = parse(ExportRecord, json.dumps(content).encode())
    assert json.loads(record.model_dump_json())["later"] == {"x": [1]}


def test_records_of_version_1_are_read(good: Run) -> None:
    """Records of version 1 lack gate, intervals, number of rows, versions, licence and parent."""
    train, export = read_both(good)
    assert export.gate == {} and export.artefacts[0].fidelity.rows is None and train.special_tokens == "parse"
    assert parse(PushRecord, json.dumps({
        "run_id": "r", "created": "2026-01-01T00:00:00Z", "export_sha256": "0" * 64, "repo": "me/m", "commit": "c",
        "files": ["README.md"],
    }).encode()).public is False  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"), ("[]", "expected a JSON object, found a list of 0"), ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1e999}', "1e999 is too large"), ('{"a": 1, "a": 2}', "a: the key occurs twice"),
        ("[" * 100_000, "nested too deeply"), ('{"a": ' + "9" * 50 + "}", "too large for a number"),
        (" " * (MAX_BYTES + 1), "expected at most"),
    ],
)  # fmt: skip
def test_ambiguous_or_unbounded_json_is_rejected(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse(TrainRecord, text.encode())


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"kl": 99.0}, "its verdict is pass, but its figures and thresholds give fail: KL 99"),
        ({"kl": 99.0, "kl_ci": [0.0, 0.01], "rows": 9}, "kl 99 is outside its own interval, 0 to 0.01"),
        ({"top1_agreement": 0.5}, "give fail: top-1 agreement 50.0%"),
        ({"prompt_parity": False}, "give fail: prompt parity"),
        ({"terminator": False}, "give fail: terminator"),
        ({"kl_general": 3.0}, "give fail: KL on general text 3"),
        ({"loss": 3.0}, "give fail: share of the training gain lost"),
        ({"loss": 3.0, "gain_lost": 0.0}, "gain_lost 0 is not (loss - loss_trained) / gain"),
        ({"gain": 0.01}, "gain 0.01 is not loss_base - loss_trained"),
        ({"top1_agreement": None}, "its verdict is pass, but top1_agreement is missing"),
        ({"loss_base": None, "loss": None}, "but loss, loss_base is missing"),
        ({"kl": None}, "give inconclusive: no held-out row was examined"),
        ({"kl": 0.09, "rows": 1}, "give inconclusive: KL 0.09 (limit 0.1) is from 1 row"),
        ({"kl": 0.01, "kl_ci": [0.0, 0.02], "rows": 1}, "kl has an interval over 1 rows"),
        ({"kl": 1e300, "loss": 1e308}, "kl is larger than an exam's figure can be"),
        ({"kl": -3.0}, "artefacts.1.fidelity.kl: expected 0 or more; found -3.0"),
        ({"kl_ci": [2.0, 1.0]}, "expected the interval's lower end first"),
    ],
)
def test_pass_verdict_contradicting_the_figures_is_rejected(figures: dict[str, Any], message: str, good: Run) -> None:
    assert message in " ".join(faults(with_figures(good, **figures)))


def test_verdict_may_be_stricter_than_the_figures(good: Run) -> None:
    content = with_figures(good, number=1, verdict="fail")
    assert parse(ExportRecord, json.dumps(content).encode()).artefacts[1].verdict == "fail"


def test_looser_thresholds_are_accepted_and_shown_by_serve(
    good: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    (run.path / "export.json").write_text(json.dumps(with_figures(good, 3, kl=0.5) | {"gate": {"max_kl": 1000.0}}))
    chosen = choose(ServeSettings(runs=str(tmp_path), run=run.id))
    warning = "judged with looser thresholds than the defaults: max_kl 1000 (default 0.1)"
    assert warning in capsys.readouterr().err
    assert chosen.record["looser_thresholds"] == ["max_kl 1000 (default 0.1)"]


def test_gguf_cannot_pass_if_its_merge_fails(good: Run) -> None:
    assert "that of the merge it was made from is fail" in " ".join(faults(with_figures(good, 0, verdict="fail")))


def test_default_must_be_a_passing_gguf(good: Run) -> None:
    for name in ("gguf/other.gguf", "merged"):
        assert f"default: '{name}' is not a passing GGUF of this record" in " ".join(
            faults(export_of(good) | {"default": name})
        )
    content = with_figures(good, 3, verdict="fail")
    assert "is not a passing GGUF of this record" in " ".join(faults(content))


def test_duplicate_artifact_names_are_rejected(good: Run) -> None:
    content = export_of(good)
    content["artefacts"].append({**content["artefacts"][1], "path": "again/tuned-F16.gguf"})
    assert "artefacts: 'tuned-F16.gguf' occurs 2 times" in faults(content)


def test_errors_in_both_records_are_reported_together(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for name, key in (("train.json", "max_length"), ("export.json", "context_length")):
        content = json.loads((run.path / name).read_text()) | {key: 0}
        (run.path / name).write_text(json.dumps(content))
    with pytest.raises(RunError) as caught:
        read_both(run)
    assert len(caught.value.faults) == 2 and all("or if someone gave you the run" in f for f in caught.value.faults)


@given(st.text(st.sampled_from("ab/.~\\:\n\x00 é"), max_size=12))
def test_accepted_paths_stay_inside_the_run(text: str) -> None:
    try:
        path = inside(text)
    except ValueError:
        return
    joined = Path("/runs/r") / path
    assert joined.is_relative_to("/runs/r") and ".." not in joined.parts and str(joined).isprintable()
    assert joined != Path("/runs/r")


def test_reserved_template_variables_in_a_record_are_rejected(good: Run) -> None:
    assert "messages can't be set" in " ".join(faults(export_of(good) | {"template_kwargs": {"messages": []}}))
