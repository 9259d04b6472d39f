"""The gate: each broken rule fails an artifact by name; few rows are inconclusive; the smallest passing file wins."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from burnish.exam.gate import judge
from burnish.exam.thresholds import DEFAULTS, looser
from burnish.records import Artifact, Fidelity
from burnish.records.verdicts import default_artifact
from export.merge.bases import MergeBase
from export.merged import choose
from export.settings import GateSection

GOOD: dict[str, Any] = {
    "kl": 0.02,
    "kl_ci": (0.01, 0.03),
    "kl_trained": 0.02,
    "kl_general": 0.05,
    "top1_agreement": 0.97,
    "top1_agreement_ci": (0.95, 0.99),
    "loss": 0.56,
    "loss_trained": 0.5,
    "loss_base": 2.0,
    "gain": 1.5,
    "gain_ci": (1.2, 1.8),
    "gain_lost": 0.04,
    "gain_lost_ci": (0.02, 0.06),
    "rows": 10,
    "prompt_parity": True,
    "terminator": True,
}
# after a few steps of training, the gain is below the rounding of any 16-bit copy
SMOKE: dict[str, Any] = {
    "kl": 2e-7, "kl_ci": (1e-7, 3e-7), "top1_agreement": 1.0, "top1_agreement_ci": (1.0, 1.0), "loss": 10.8017,
    "loss_trained": 10.8014, "loss_base": 10.8018, "gain": 4e-4, "gain_ci": (1e-4, 7e-4), "gain_lost": 0.75,
    "gain_lost_ci": (0.5, 1.0),
}  # fmt: skip


def verdict(**change: Any) -> tuple[str, str]:
    return judge(Fidelity.model_validate({**GOOD, **change}), GateSection())


def few(**change: Any) -> dict[str, Any]:
    """Return figures over one row, without intervals."""
    return {**{name: None for name in GOOD if name.endswith("_ci")}, "rows": 1, **change}


def test_faithful_artifact_passes() -> None:
    assert verdict() == ("pass", "all checks hold")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompt_parity": False}, "prompt parity"),
        ({"terminator": False}, "terminator"),
        ({"kl": 0.3, "kl_ci": (0.2, 0.4)}, "KL 0.3 (95% interval 0.2 to 0.4 over 10 rows) is above 0.1"),
        ({"kl": float("nan"), "kl_ci": (float("nan"), float("nan"))}, "KL is not a number"),
        ({"kl_general": 0.11}, "KL on general text 0.11 is above 0.1"),
        ({"kl_general": float("nan")}, "KL on general text nan"),
        ({"top1_agreement": 0.7, "top1_agreement_ci": (0.6, 0.8)},
         "top-1 agreement 70.0% (95% interval 60.0% to 80.0% over 10 rows) is below 88.0%"),
        ({"gain_lost": 0.4, "gain_lost_ci": (0.3, 0.5)}, "share of the training gain lost 40%"),
        (few(kl=2.0), "KL 2 is above 0.1"),
    ],
)  # fmt: skip
def test_each_broken_rule_fails_by_name(change: dict[str, Any], name: str) -> None:
    found, why = verdict(**change)
    assert found == "fail"
    assert name in why


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kl": 0.08, "kl_ci": (0.04, 0.12)}, "KL 0.08 (95% interval 0.04 to 0.12 over 10 rows) may be above 0.1"),
        ({"kl": 0.12, "kl_ci": (0.07, 0.17)}, "may be above 0.1"),
        ({"top1_agreement_ci": (0.85, 1.0)}, "may be below 88.0%"),
        ({"gain_lost_ci": (-0.2, 0.28)}, "share of the training gain lost 4% (95% interval -20% to 28%"),
        ({"kl": 0.1, "kl_ci": (0.09, 0.11)}, "is at the limit of 0.1: more rows would not decide it"),
        (few(), "KL 0.02 (limit 0.1) is from 1 row, without an interval: examine at least 10 rows"),
        ({"kl": None}, "no held-out row was examined"),
    ],
)
def test_limit_inside_the_interval_is_inconclusive(change: dict[str, Any], message: str) -> None:
    found, why = verdict(**change)
    assert found == "inconclusive"
    assert message in why
    assert "more rows would not decide it" in why or "data.eval_split" in why


def test_inconclusive_verdict_names_the_number_of_rows_needed() -> None:
    _, why = verdict(kl=0.08, kl_ci=(0.04, 0.12))
    wide = re.search(r"about (\d+) held-out rows would decide it", why)
    assert wide is not None and 20 <= int(wide[1]) <= 40  # half of 0.04 at t = 2.26; the target is 0.02 at z = 1.96
    _, why = verdict(kl=0.095, kl_ci=(0.055, 0.135))
    closer = re.search(r"about (\d+) held-out rows would decide it", why)
    assert closer is not None and int(closer[1]) > 10 * int(wide[1])


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_exact_copy_passes_with_any_exam_size(rows: int) -> None:
    exact = {"kl": 1e-6, "top1_agreement": 1.0, "loss": 0.5001, "gain_lost": 1e-4, "kl_general": 1e-6, "rows": rows}
    intervals = {"kl_ci": (9e-7, 1.1e-6), "top1_agreement_ci": (1.0, 1.0), "gain_lost_ci": (0.0, 2e-4)}
    assert verdict(**few(**exact, **({} if rows == 1 else intervals)))[0] == "pass"


def test_figures_far_inside_the_limits_pass_with_few_rows() -> None:
    wide = {"kl": 0.009, "kl_ci": (0.0, 0.12), "top1_agreement": 0.99, "top1_agreement_ci": (0.86, 1.0)}
    assert verdict(**wide, gain_lost=0.01, gain_lost_ci=(-0.2, 0.3), rows=2)[0] == "pass"


def test_all_rules_are_listed_with_failures_first() -> None:
    found, why = verdict(kl=0.08, kl_ci=(0.04, 0.12), terminator=False, kl_general=3.0)
    assert found == "fail"
    assert why.index("terminator") < why.index("KL on general text") < why.index("may be above")


def test_lost_gain_is_not_judged_without_a_gain() -> None:
    lost = {"gain_lost": None, "gain_lost_ci": None}
    found, why = verdict(loss=2.5, loss_trained=2.1, gain=-0.1, gain_ci=(-0.2, 0.0), **lost)
    assert found == "pass" and "gain not judged: training gained 0 nats" in why


def test_exact_merge_of_a_smoke_run_passes_and_lists_unjudged_figures() -> None:
    found, why = verdict(**SMOKE)
    assert found == "pass"
    assert why == "all checks hold; gain not judged: training gained 0.0004 nats per token, below 0.05"
    strict = GateSection(min_gain=0.0)
    assert judge(Fidelity.model_validate({**GOOD, **SMOKE}), strict)[0] == "fail"


def test_gain_that_may_be_zero_is_not_judged() -> None:
    found, why = verdict(loss_base=0.6, gain=0.1, gain_ci=(-0.05, 0.25), gain_lost=0.5, gain_lost_ci=(0.3, 0.7))
    assert found == "pass" and "may be zero" in why


def test_plain_text_runs_have_no_parity_and_no_terminator() -> None:
    assert verdict(prompt_parity=None, terminator=None)[0] == "pass"


def test_limit_of_zero_fails_any_difference() -> None:
    assert judge(Fidelity.model_validate(GOOD), GateSection(min_top1=1.0))[0] == "fail"


def test_default_settings_equal_the_reference_thresholds() -> None:
    assert GateSection().model_dump() == DEFAULTS
    assert looser(DEFAULTS) == [] and looser({}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_kl": 1000}, ["max_kl 1000 (default 0.1)"]),
        ({"min_top1": 0.5}, ["min_top1 0.5 (default 0.88)"]),
        ({"max_gain_lost": 0.9, "min_gain": 9.0}, ["max_gain_lost 0.9 (default 0.2)", "min_gain 9 (default 0.05)"]),
        ({"max_kl": 0.01, "min_top1": 0.99, "max_gain_lost": 0.0, "min_gain": 0.0}, []),
    ],
)
def test_only_looser_thresholds_are_reported(change: dict[str, float], message: list[str]) -> None:
    assert looser({**DEFAULTS, **change}) == message


def artifact(path: str, size: int, verdict: str, kind: str = "gguf") -> Artifact:
    return Artifact.model_validate(
        {
            "path": path,
            "kind": kind,
            "quantization": "x",
            "bytes": size,
            "sha256": "0" * 64,
            "fidelity": GOOD,
            "verdict": verdict,
            "why": "",
        }
    )


@pytest.mark.parametrize("name", ["max_kl", "max_gain_lost", "min_gain"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_threshold_is_rejected(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        GateSection.model_validate({name: value})


def test_default_is_the_smallest_passing_gguf_or_none() -> None:
    made = [
        artifact("merged", 1, "pass", "safetensors"),
        artifact("f16", 30, "pass"),
        artifact("q8", 20, "pass"),
        artifact("q5", 15, "inconclusive"),
        artifact("q4", 10, "fail"),
    ]
    assert default_artifact(made) == "q8"
    assert default_artifact(made[:1] + made[3:]) is None


def merges(original: dict[str, Any], dequantized: dict[str, Any] | None = None) -> dict[MergeBase, Fidelity]:
    return {
        "dequantized": Fidelity.model_validate({**GOOD, "loss": 0.5, "loss_general": 3.0, **(dequantized or {})}),
        "original": Fidelity.model_validate({**GOOD, "loss": 0.45, "loss_general": 2.9, **original}),
    }


@pytest.mark.parametrize(
    ("original", "best", "message"),
    [({}, "original", "0.5000 (dequantized) against 0.4500 (original)"),
     ({"loss": 0.55}, "dequantized", "held-out response loss 0.5000"),
     ({"loss": 0.502}, "original", "within 1%; general-text loss 3.0000 (dequantized) against 2.9000"),
     ({"kl": 0.9, "kl_ci": (0.8, 1.0)}, "dequantized", "but original fails the gate: KL 0.9"),
     ({"kl": 0.09, "kl_ci": (0.05, 0.13)}, "dequantized", "but original is inconclusive: KL 0.09")],
)  # fmt: skip
def test_better_merge_is_the_passing_one_with_lower_loss(original: dict[str, Any], best: str, message: str) -> None:
    choice, reason = choose(merges(original), GateSection())
    assert choice == best
    assert message in reason


def test_inconclusive_merge_is_preferred_to_a_failing_one() -> None:
    made = merges({"kl": 0.9, "kl_ci": (0.8, 1.0)}, {"kl": 0.09, "kl_ci": (0.05, 0.13)})
    assert choose(made, GateSection())[0] == "dequantized"
