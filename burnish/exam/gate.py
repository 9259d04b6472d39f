"""The gate: the exam figures that an artifact must reach to be served.

With few rows, a figure is known only to within its interval. A rule holds if the whole interval is within the limit,
fails if none of it is, and is open if the limit is inside the interval: then the verdict is "inconclusive". Parity,
end tokens and the general texts (the same for every run) are not samples: they pass or fail without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .fidelity import Fidelity
from .intervals import Interval, rows_needed
from .thresholds import Gate

# A figure that is at most this fraction of its limit passes regardless of its interval: in the exam in
# bench/results/quantization-2026-11-28.md the lowest row's KL was 0.13 of the KL over all rows.
# This matters only for exams with one or two rows.
CLEAR_PASS_SHARE = 0.1
MIN_ROWS = 10  # rows that a message requests if there is no interval
MAX_ROWS = 10_000  # if more are needed, the figure is so close to its limit that rows would not decide it
MORE_ROWS = "raise data.eval_split, exam.rows or exam.tokens and train again"

Verdict = Literal["pass", "fail", "inconclusive"]
RANK: dict[Verdict, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold: failed, or undecided because of too few rows, with the reason."""

    verdict: Literal["fail", "inconclusive"]
    why: str


HOLDS = "all checks hold"  # starts the reason for a pass; anything not judged follows


@dataclass(frozen=True)
class Measure:
    """A figure over `rows` held-out rows with its 95% interval; must be at most `limit`.

    `style` is its format; higher-is-better metrics are stored as 1 - value (`of_share`) and displayed as the value.
    """

    name: str
    value: float
    interval: Interval | None
    limit: float
    style: str
    rows: int
    of_share: bool = False

    def shown(self, value: float) -> str:
        """Format a value of this figure for messages."""
        return format(1 - value if self.of_share else value, self.style)


def judge(fidelity: Fidelity, gate: Gate) -> tuple[Verdict, str]:
    """Return the verdict on an artifact and its reason: every rule that fails or stays open, by name."""
    found = [f for f in (*_fixed(fidelity, gate), *_sampled(fidelity, gate)) if f]
    order = sorted(found, key=lambda f: -RANK[f.verdict])
    if not order:
        return "pass", "; ".join([HOLDS, *_unjudged(fidelity, gate)])
    return order[0].verdict, "; ".join(f.why for f in order)


def _fixed(f: Fidelity, gate: Gate) -> Iterator[Finding]:
    """Yield the failed rules that do not depend on the number of rows."""
    for name, holds, why in (
        ("prompt parity", f.prompt_parity, f.prompt_parity_why),
        ("terminator", f.terminator, f.terminator_why),
        ("tool parity", f.tool_parity, f.tool_parity_why),
    ):
        if holds is False:
            yield Finding("fail", f"{name}: {why or 'it does not hold'}")
    if f.kl_general is not None and not f.kl_general <= gate.max_kl:
        yield Finding("fail", f"KL on general text {f.kl_general:.3g} is above {gate.max_kl:g}")


def _sampled(f: Fidelity, gate: Gate) -> Iterator[Finding | None]:
    """Yield findings from the rules over held-out rows."""
    if f.kl is None:
        yield Finding("inconclusive", f"no held-out row was examined, so its answers are unknown: {MORE_ROWS}")
        return
    rows = f.rows or 0
    yield _at_most(Measure("KL", f.kl, f.kl_ci, gate.max_kl, ".3g", rows))
    if f.top1_agreement is not None:
        lacks = (1 - f.top1_agreement_ci[1], 1 - f.top1_agreement_ci[0]) if f.top1_agreement_ci else None
        yield _at_most(
            Measure("top-1 agreement", 1 - f.top1_agreement, lacks, 1 - gate.min_top1, ".1%", rows, of_share=True)
        )
    if _gain_is_judged(f, gate) and (lost := _gain_lost(f)) is not None:
        name = "share of the training gain lost"
        yield _at_most(Measure(name, lost, f.gain_lost_ci, gate.max_gain_lost, ".0%", rows))


def judge_recorded(fidelity: Fidelity, gate: Gate) -> tuple[Verdict, str]:
    """Judge a record's figures by the original rules: without a row count they are points, not intervals."""
    if fidelity.rows is not None or fidelity.kl is None:
        return judge(fidelity, gate)
    points = ("kl", "top1_agreement", "gain_lost")
    lost = _gain_lost(fidelity)
    figures = {**{name: getattr(fidelity, name) for name in points}, "gain_lost": lost}
    ends = {f"{name}_ci": None if value is None else (value, value) for name, value in figures.items()}
    return judge(fidelity.model_copy(update={"gain_lost": lost, "rows": MIN_ROWS, **ends}), gate)


def _at_most(m: Measure) -> Finding | None:
    """Compare a figure and its interval with its limit."""
    word = "below" if m.of_share else "above"
    if math.isnan(m.value):
        return Finding("fail", f"{m.name} is not a number")
    if m.value <= CLEAR_PASS_SHARE * m.limit or (m.interval is not None and m.interval[1] <= m.limit):
        return None
    if m.interval is None:
        if m.value * CLEAR_PASS_SHARE > m.limit:
            return Finding("fail", f"{m.name} {m.shown(m.value)} is {word} {m.shown(m.limit)}")
        detail = (
            f"{m.name} {m.shown(m.value)} (limit {m.shown(m.limit)}) is from {m.rows or 1} row, without an interval"
        )
        return Finding("inconclusive", f"{detail}: examine at least {MIN_ROWS} rows ({MORE_ROWS})")
    low, high = m.interval
    across = sorted((m.shown(low), m.shown(high)), key=lambda text: float(text.rstrip("%")))
    known = f"{m.name} {m.shown(m.value)} (95% interval {across[0]} to {across[1]} over {m.rows} rows)"
    if low > m.limit or (m.limit == 0 and m.of_share):
        return Finding("fail", f"{known} is {word} {m.shown(m.limit)}")
    needed = rows_needed(m.value, m.interval, m.rows, m.limit)
    if needed > MAX_ROWS:
        return Finding("inconclusive", f"{known} is at the limit of {m.shown(m.limit)}: more rows would not decide it")
    advice = f"about {needed:,.0f} held-out rows would decide it ({MORE_ROWS})"
    return Finding("inconclusive", f"{known} may be {word} {m.shown(m.limit)}: {advice}")


def _gain_lost(f: Fidelity) -> float | None:
    """Return the share of the training gain (loss_base - loss_trained) that the artifact lost."""
    return f.gain_lost if f.gain_lost is not None else f.computed_gain_lost


def _gain_is_judged(f: Fidelity, gate: Gate) -> bool:
    """Return whether the gain is large enough to judge: at least `min_gain`, with an interval above 0."""
    gain = f.computed_gain
    return gain is not None and gain > 0 and gain >= gate.min_gain and (f.gain_ci is None or f.gain_ci[0] > 0)


def _unjudged(f: Fidelity, gate: Gate) -> Iterator[str]:
    """If a gain was measured, yield why its loss was not judged."""
    gain = f.computed_gain
    if gain is None or _gain_is_judged(f, gate):
        return
    if gain < gate.min_gain:
        yield f"gain not judged: training gained {max(gain, 0):.2g} nats per token, below {gate.min_gain:g}"
    else:
        yield f"gain not judged: {gain:.2g} nats per token over {f.rows} rows may be zero"
