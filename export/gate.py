"""The gate: what an artefact must show on the exam before it may be served."""

from __future__ import annotations

from burnish.run import Artefact, Fidelity
from export.settings import GateSection


def judge(fidelity: Fidelity, gate: GateSection) -> tuple[bool, str]:
    """Return whether an artefact passes, and why or why not: every rule that it breaks, by name."""
    broken = [
        text
        for text in (
            _broken("prompt parity", fidelity.prompt_parity, fidelity.prompt_parity_why),
            _broken("terminator", fidelity.terminator, fidelity.terminator_why),
            _above("KL", fidelity.kl, gate.max_kl),
            _above("KL on general text", fidelity.kl_general, gate.max_kl),
            _below("top-1 agreement", fidelity.top1_agreement, gate.min_top1),
            _gain_lost(fidelity, gate.max_gain_lost),
        )
        if text
    ]
    return not broken, "; ".join(broken) or "all checks hold"


def default_artefact(artefacts: list[Artefact]) -> str | None:
    """Return the smallest GGUF that passes, None where none does."""
    passing = [a for a in artefacts if a.verdict == "pass" and a.kind == "gguf"]
    return min(passing, key=lambda a: a.bytes).path if passing else None


def _broken(name: str, holds: bool | None, why: str) -> str:
    return f"{name}: {why or 'it does not hold'}" if holds is False else ""


def _above(name: str, value: float | None, limit: float) -> str:
    return f"{name} {value:.3g} is above {limit:g}" if value is not None and not value <= limit else ""


def _below(name: str, value: float | None, limit: float) -> str:
    return f"{name} {value:.1%} is below {limit:.0%}" if value is not None and not value >= limit else ""


def _gain_lost(f: Fidelity, limit: float) -> str:
    """loss_base - loss_trained is what training gained; where it gained nothing there is nothing to lose."""
    if f.loss is None or f.loss_base is None or f.loss_trained is None or f.loss_base <= f.loss_trained:
        return ""
    lost = (f.loss - f.loss_trained) / (f.loss_base - f.loss_trained)
    return f"{lost:.0%} of what training gained is lost, more than {limit:.0%}" if not lost <= limit else ""
