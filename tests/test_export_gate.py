"""The gate: each rule by itself fails an artefact and is named; the default is the smallest that passes."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.run import Artefact, Fidelity
from export.candidates import Choice, choose
from export.gate import default_artefact, judge
from export.settings import GateSection

GOOD: dict[str, Any] = {
    "kl": 0.01,
    "kl_trained": 0.01,
    "top1_agreement": 0.97,
    "loss": 0.51,
    "loss_trained": 0.5,
    "loss_base": 2.0,
    "prompt_parity": True,
    "terminator": True,
}


def verdict(**change: Any) -> tuple[bool, str]:
    return judge(Fidelity.model_validate({**GOOD, **change}), GateSection())


def test_a_faithful_artefact_passes() -> None:
    assert verdict() == (True, "all checks hold")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompt_parity": False}, "prompt parity"),
        ({"terminator": False}, "terminator"),
        ({"kl": 0.2}, "KL"),
        ({"kl": float("nan")}, "KL"),
        ({"top1_agreement": 0.8}, "top-1"),
        ({"loss": 0.9}, "27% of what training gained"),
    ],
)
def test_each_broken_rule_fails_it_by_name(change: dict[str, Any], name: str) -> None:
    passed, why = verdict(**change)
    assert not passed
    assert name in why


def test_every_broken_rule_is_named_at_once() -> None:
    assert verdict(kl=1.0, terminator=False)[1].count(";") == 1


def test_where_training_gained_nothing_there_is_no_gain_to_lose() -> None:
    assert verdict(loss=2.5, loss_trained=2.1)[0]


def test_plain_text_runs_have_no_parity_and_no_terminator() -> None:
    assert verdict(prompt_parity=None, terminator=None)[0]


def artefact(path: str, size: int, passed: bool, kind: str = "gguf") -> Artefact:
    return Artefact.model_validate(
        {
            "path": path,
            "kind": kind,
            "quantization": "x",
            "bytes": size,
            "sha256": "0",
            "fidelity": GOOD,
            "verdict": "pass" if passed else "fail",
            "why": "",
        }
    )


def test_the_default_is_the_smallest_gguf_that_passes_or_none() -> None:
    made = [
        artefact("merged", 1, True, "safetensors"),
        artefact("f16", 30, True),
        artefact("q8", 20, True),
        artefact("q4", 10, False),
    ]
    assert default_artefact(made) == "q8"
    assert default_artefact(made[:1] + made[3:]) is None


def merges(original_kl: float, original_loss: float) -> dict[Choice, dict[str, Any]]:
    return {"dequantized": {**GOOD, "loss": 0.5, "loss_general": 3.0},
            "original": {**GOOD, "kl": original_kl, "loss": original_loss, "loss_general": 2.9}}  # fmt: skip


@pytest.mark.parametrize(
    ("kl", "loss", "best", "says"),
    [(0.01, 0.45, "original", "0.5000 (dequantized) against 0.4500 (original)"),
     (0.01, 0.55, "dequantized", "held-out response loss 0.5000"),
     (0.01, 0.502, "original", "within 1%; general-text loss 3.0000 (dequantized) against 2.9000"),
     (0.9, 0.45, "dequantized", "but original fails the gate: KL 0.9 is above 0.1")],
)  # fmt: skip
def test_the_better_merge_is_the_one_that_loses_less_and_passes(kl: float, loss: float, best: str, says: str) -> None:
    choice, reason = choose(merges(kl, loss), GateSection())
    assert choice == best
    assert says in reason
