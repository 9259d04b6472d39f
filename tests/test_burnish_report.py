"""report.html is created from any partial run, is self-contained, and shows data as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.exam.rows import Exam, Question, SampleAnswer
from burnish.exam.scores import TopLogprobs
from burnish.files import file_sha256
from burnish.records import ExportRecord, PushRecord, TrainRecord
from burnish.report import lengths, write
from burnish.report.axis import Axis, number
from burnish.report.chart import Labelled, Series, bars, curves, means, scatter, thin
from burnish.report.page import size
from burnish.run import Run, RunError

SHA = "ab" * 32
NASTY = "<script>alert(1)</script> & \"quotes\" 'x' </div>{{ 7 * 7 }}"


def train_record(run: Run, **changes: Any) -> None:
    record = {
        "run_id": run.id, "created": "2026-01-01T00:00:00Z", "base": {"id": "me/base", "sha256": SHA},
        "quantization": "nf4", "load_dtype": "float32", "compute_dtype": "float32", "double_quant": True,
        "skipped_modules": ["lm_head"], "adapter": {"path": "adapter", "sha256": SHA},
        "data": {"path": "rows.jsonl", "sha256": SHA, "format": "messages", "rows": 90, "eval_rows": 10,
                 "over_length": 0},
        "chat_template_sha256": SHA, "template_date": "2026-01-01", "terminators": ["<|im_end|>"], "max_length": 512,
        "metrics": {"train_loss": 0.5, "eval_loss": 0.6, "train_runtime_s": 3700.0, "tokens_per_s": 1234.5,
                    "peak_memory_bytes": 2_500_000_000},
        "exam": {"path": "exam", "sha256": SHA, "rows": 2, "tokens": 5},
        "versions": {"torch": "2.0"}, "hardware": {"device": "cpu", "cpus": 2}, **changes,
    }  # fmt: skip
    run.write(TrainRecord.model_validate(record))


def exam(
    run: Run,
    sample: str = "hello",
    gain: float = 1.0,
    answers: tuple[str, str, str] = ("want", "b", "t"),
    tools: list[dict[str, Any]] | None = None,
) -> None:
    """Two questions, one held out with 3 scored tokens and one general with 2."""
    logits = np.random.default_rng(0).normal(size=(5, 80)).astype(np.float32)
    questions = [Question("heldout", [1, 2, 3, 4], [(1, 4)], tools=tools), Question("general", [5, 6, 7], [(1, 3)])]
    trained = TopLogprobs.of(logits, [2, 3, 4, 6, 7])
    (run.path / "exam").mkdir()
    Exam(questions, trained, trained.true - gain, 1e-6, 1.0, (SampleAnswer(sample, *answers),)).save(run.path / "exam")


def metrics(run: Run, points: list[dict[str, Any]], tail: str = "") -> None:
    (run.path / "logs").mkdir()
    text = "".join(json.dumps(point) + "\n" for point in points) + tail
    (run.path / "logs" / "metrics.jsonl").write_text(text)


def artifact(
    quantization: str, count: int, loss: float, verdict: str = "pass", why: str = "all checks hold"
) -> dict[str, Any]:
    kind = "safetensors" if quantization == "F16" else "gguf"
    fidelity = {"kl": 0.01, "kl_general": 0.0345, "kl_trained": 0.02 / count, "top1_agreement": 0.985, "loss": loss,
                "loss_trained": 1.0, "loss_base": 2.0, "prompt_parity": True, "terminator": True}  # fmt: skip
    path = "merged" if kind == "safetensors" else f"gguf/r-{quantization}.gguf"
    return {"path": path, "kind": kind, "quantization": quantization, "bytes": count, "sha256": SHA,
            "fidelity": fidelity, "verdict": verdict, "why": why, "fallbacks": {"q4_K -> q5_0": 30}}  # fmt: skip


def export_record(run: Run, default: str | None = "gguf/r-Q8_0.gguf", **changes: Any) -> None:
    figures = {"loss": 1.01, "loss_general": 3.25, "kl_trained": 2e-7, "top1_agreement": 0.999}
    artifacts = [artifact("F16", 273_000_000, 1.0), artifact("Q8_0", 145_000_000, 1.1)]
    artifacts.append(artifact("Q2_K", 88_000_000, 3.1, "fail", "KL 0.9 is above 0.1"))
    record = {
        "run_id": run.id, "created": "2026-01-02T00:00:00Z", "train_sha256": file_sha256(run.path / "train.json"),
        "merge": {"base": "dequantized", "reason": "lower held-out loss",
                  "candidates": {"dequantized": figures, "original": {**figures, "loss": 1.07}}},
        "artefacts": artifacts, "default": default, "chat_template_sha256": SHA, "stop": ["<|im_end|>"],
        "context_length": 2048, **changes,
    }  # fmt: skip
    run.write(ExportRecord.model_validate(record))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A trained and examined run, with two logged curves."""
    run = Run(tmp_path / "the-run")
    run.path.mkdir()
    train_record(run)
    exam(run)
    points = [{"step": i, "loss": 2 / i, "learning_rate": 1e-4 / i, "grad_norm": 1.0} for i in range(1, 30)]
    metrics(run, [*points, {"step": 29, "eval_loss": 0.6}])
    (run.path / "config.yaml").write_text("train:\n  learning_rate: 0.0001\n")
    return run


def page(run: Run) -> str:
    return write(run).read_text(encoding="utf-8")


def test_trained_run_shows_curves_and_the_next_command(run: Run) -> None:
    html = page(run)
    assert "Trained, not exported yet" in html and "make export RUN=the-run" in html
    for title in ("Loss while training", "Learning rate", "Gradient norm", "Length of the examined rows"):
        assert f'aria-label="{title}"' in html
    assert "1 h 1 min" in html and "2.50 GB" in html and "learning_rate: 0.0001" in html
    assert "Artifacts" not in html


def test_exported_run_shows_the_served_file_and_all_figures(run: Run) -> None:
    export_record(run)
    html = page(run)
    assert "serve loads gguf/r-Q8_0.gguf" in html and "keeps 90.0% of the training gain" in html
    assert "2 of 3 artifacts pass" in html and "KL 0.9 is above 0.1" in html
    assert html.count('class="tag">served') == 1 and html.count('class="tag">chosen') == 1
    assert all(figure in html for figure in ("1.0700", "3.2500", "98.5%", "2e-7", "0.0345"))
    assert "30 tensors q4_K -&gt; q5_0" in html
    assert 'aria-label="Drift against size"' in html and "merged F16" in html


def test_headline_reports_failures_stale_exports_and_publication(run: Run) -> None:
    export_record(run, default=None)
    assert "No artifact passes: serve refuses this run" in page(run)
    push = {
        "run_id": run.id,
        "created": "2026-01-03T00:00:00Z",
        "export_sha256": SHA,
        "repo": "me/model",
        "commit": "c0ffee",
        "files": [],
    }
    run.write(PushRecord.model_validate(push))
    assert "me/model" in page(run) and "c0ffee" in page(run)
    train_record(run, created="2027-01-01T00:00:00Z")
    assert "The export is from an earlier training" in page(run)


def test_looser_thresholds_are_shown_in_headline_and_table(run: Run) -> None:
    export_record(run, gate={"max_kl": 0.1, "min_top1": 0.88})
    html = page(run)
    assert "Thresholds: max_kl 0.1, min_top1 0.88." in html and "looser" not in html
    export_record(run, gate={"max_kl": 1000.0, "min_top1": 0.88})
    html = page(run)
    assert "serve loads gguf/r-Q8_0.gguf, with looser thresholds" in html
    assert html.count("judged with looser thresholds than the defaults: max_kl 1000 (default 0.1)") == 2


def test_inconclusive_artifact_has_its_own_colour_and_intervals(run: Run) -> None:
    open_one = artifact("Q8_0", 145_000_000, 1.1, "inconclusive", "KL 0.09 (95% interval 0.05 to 0.13) may be above")
    open_one["fidelity"] |= {"kl": 0.09, "kl_ci": (0.05, 0.13), "top1_agreement_ci": (0.9, 1.0),
                             "loss_general_base": 3.1, "loss_general_trained": 3.25}  # fmt: skip
    export_record(run, default=None, artefacts=[open_one], versions={"burnish": "0.0.9"})
    html = page(run)
    assert "No artifact is proven: serve refuses this run" in html and 'class="words inconclusive"' in html
    assert "0.0500 to 0.1300" in html and "90.0% to 100.0%" in html and "may be above" in html
    assert "3.100 → 3.250" in html and "Versions at export" in html


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_report_is_self_contained_without_scripts(run: Run) -> None:
    export_record(run)
    html = page(run)
    tags = Tags()
    tags.feed(html)
    assert not {tag for tag, _ in tags.found} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, attributes in tags.found for a in attributes if a in ("src", "href") or a.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", html)
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_markup_in_data_is_escaped(run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "nasty")
    other.path.mkdir()
    data = {"path": NASTY, "sha256": SHA, "format": "messages", "rows": 1, "eval_rows": 1, "over_length": 0}
    train_record(other, data=data, base={"id": NASTY, "sha256": SHA}, hardware={NASTY: NASTY}, terminators=["</s>"])
    exam(other, sample=NASTY)
    (other.path / "config.yaml").write_text(NASTY)
    bad = artifact("Q8_0", 5, 1.0, why=NASTY) | {"path": NASTY}
    export_record(other, artefacts=[bad], default=NASTY, merge={"base": "original", "reason": NASTY, "candidates": {}})
    html = page(other)
    assert "<script" not in html and "{{ 7" in html
    assert html.count("&lt;script&gt;") > 10
    assert "&lt;/s&gt;" in html


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
SHOWN_CALL = r'<code>weather</code><pre class="text">{&#34;city&#34;: &#34;Bern&#34;}</pre>'


def test_a_call_that_is_cut_off_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    other = Run(tmp_path / "cut")
    other.path.mkdir()
    train_record(other, tool_dialect="hermes")
    exam(other, answers=(f"{CALL}\n{CALL[:-17]}", CALL[:21], "t"), tools=[{"function": {"name": "weather"}}])
    html = page(other)
    assert html.count(SHOWN_CALL) == 1 and "{&#34;city&#34;: &#34;Ber …</pre>" in html
    assert "&lt;tool_call&gt;\n{&#34;name&#34;" in html  # without a name it is text


@pytest.mark.parametrize("dialect, tools, shown", [("hermes", True, 2), ("hermes", False, 0), (None, True, 0)])
def test_tool_calls_in_answers_are_displayed_as_calls(
    tmp_path: Path, dialect: str | None, tools: bool, shown: int
) -> None:
    other = Run(tmp_path / "tools")
    other.path.mkdir()
    train_record(other, tool_dialect=dialect, reasoning_format="think")
    answer = f"<think>\nRain?\n</think>\n\nI look.\n{CALL}"
    exam(other, answers=(CALL, "no tool", answer), tools=[{"function": {"name": "weather"}}] if tools else None)
    html = page(other)
    assert html.count(SHOWN_CALL) == shown and html.count("&lt;tool_call&gt;") == 2 - shown
    assert '<div class="text soft">Rain?</div>' in html and "no tool" in html and "&lt;think&gt;" not in html


def test_report_tolerates_missing_partial_and_infinite_data(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.path.mkdir()
    train_record(run)
    metrics(run, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}], tail='{"step": 3, "lo')
    html = page(run)
    assert "the loss is not finite at 1 logged step:" in html
    assert not [svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if re.search(r"\bnan\b", svg)]
    assert "the gain of training is unknown" in html
    with pytest.raises(RunError, match="train.json is missing"):
        write(Run(tmp_path))


def test_recorded_row_lengths_are_preferred(run: Run) -> None:
    data = {"path": "d", "sha256": SHA, "format": "text", "rows": 3, "eval_rows": 0, "over_length": 0}
    train_record(run, data={**data, "lengths": lengths([3, 70, 71, 900]).to_dict()})
    assert 'aria-label="Length of the training rows"' in page(run)


def test_training_without_gain_is_reported(run: Run) -> None:
    for path in (run.path / "exam").iterdir():
        path.unlink()
    (run.path / "exam").rmdir()
    exam(run, gain=-0.5)
    assert "Training did not improve" in page(run)


@pytest.mark.parametrize("tokens", [[1], [0, 23], [5, 24, 25, 4000], [1 << 20], []])
def test_lengths_count_every_row_once(tokens: list[int]) -> None:
    made = lengths(tokens)
    assert sum(made.counts) == len(tokens)
    assert len(made.counts) <= 25
    assert all(made.counts[t // made.bin_tokens] for t in tokens)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 3.4), (1e-9, 5e-4), (0.93, 0.97), (5.0, 5.0), (0.0, 0.0), (-3.0, 2.0), (0, 123456)]
)
def test_axis_ticks_are_round_few_and_inside_the_range(low: float, high: float) -> None:
    axis = Axis.over("x", [low, high])
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(-1e-9 <= axis.share(t) <= 1 + 1e-9 for t in ticks)
    assert 0 <= axis.share(low) <= axis.share(high) <= 1


def test_log_axis_has_powers_of_ten() -> None:
    axis = Axis.over("x", [3e-7, 0.02], log=True)
    assert (axis.low, axis.high) == (pytest.approx(1e-7), pytest.approx(0.1))
    assert axis.share(1e-7) == pytest.approx(0) and axis.share(0.1) == pytest.approx(1)


def test_long_curve_keeps_its_spikes() -> None:
    points = [(float(i), 0.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 9.0)
    kept = thin(points, 800)
    assert len(kept) <= 800 and (54_321.0, 9.0) in kept and kept == sorted(kept)


def test_labels_of_close_points_do_not_overlap() -> None:
    points = [Labelled(name, 100.0 + i, "pass", 1e-3) for i, name in enumerate(("F16", "BF16", "Q8_0", "Q6_K"))]
    drawn = str(scatter("t", Axis.over("x", [0, 200]), Axis.over("y", [1e-3, 1e-2], log=True), points))
    labels = [tuple(map(float, at)) for at in re.findall(r'<text x="([^"]*)" y="([^"]*)"[^>]*class="name"', drawn)]
    dots = [tuple(map(float, at)) for at in re.findall(r'<circle cx="([^"]*)" cy="([^"]*)"', drawn)]
    assert len(labels) == len(dots) == 4
    apart = [
        (a, b) for i, a in enumerate(labels) for b in labels[:i] if abs(a[0] - b[0]) < 24 and abs(a[1] - b[1]) < 13
    ]
    assert not apart
    assert not [(t, d) for t in labels for d in dots if t[0] - 5 < d[0] < t[0] + 29 and t[1] - 15 < d[1] < t[1] + 7]


def test_long_curve_is_drawn_with_a_moving_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    drawn = str(curves("t", Axis.over("x", [0, 1000]), Axis.over("y", [0, 1]), [Series("s", points, "held")]))
    assert drawn.count("<path") == 2 and drawn.count("faint") == 1 and "<circle" not in drawn
    assert all(y == pytest.approx(0.5, abs=0.04) for _, y in means(points))


def test_single_point_and_single_bar_are_drawn() -> None:
    x, y = Axis.over("x", [1.0]), Axis.over("y", [2.0])
    assert "<circle" in curves("t", x, y, [Series("s", [(1.0, 2.0)], "held")])
    assert "0.0000" in bars("t", "x", [Labelled("base", 0.0, "base")])


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.0003, "3e-4"), (0.25, "0.25"), (1500.0, "1,500"), (2e6, "2e6"), (-1.5, "-1.5")]
)
def test_numbers_are_formatted_compactly(value: float, text: str) -> None:
    assert number(value) == text


def test_sizes_use_decimal_units() -> None:
    assert [size(n) for n in (12, 145_400_000, 2_710_000_000)] == ["12 bytes", "145 MB", "2.71 GB"]
