"""The report's section on evaluations: a table, a plot, and rows that base and tuned answered differently."""

from __future__ import annotations

from dataclasses import dataclass

from ..console import counted
from ..evaluations.gate import of_this_export
from ..evaluations.record import DifferingRow, Evaluation
from .chart import Labelled, bars
from .collect import View
from .plots import Plot

Interval = tuple[float, float]
LONGEST_NAME = 13  # beside a bar


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: its table cells with intervals, a remark on its verdict with a CSS class, and its rows."""

    name: str
    cells: list[tuple[str, str, str]]
    verdict: str
    colour: str
    rows: list[DifferingRow]
    groups: list[tuple[str, int, str, str]]


def evaluated(view: View) -> list[Evaluated]:
    """Return the run's evaluations for the page."""
    return [Evaluated(e.name, _cells(e), *_verdict(e, view), e.rows, _groups(e)) for e in view.evaluations]


def plot(view: View) -> list[Plot]:
    """Return the plot of all scores, base beside tuned; none without evaluations."""
    values = [
        Labelled(e.name if len(e.name) <= LONGEST_NAME else f"{e.name[: LONGEST_NAME - 1]}…", one.score, colour)
        for e in view.evaluations
        for one, colour in ((e.base, "base"), (e.tuned, "trained"))
        if one is not None
    ]
    if not values:
        return []
    legend = [("base", "base"), ("tuned", "trained")]
    return [Plot("Scores", "mean over rows, 0 to 1", legend, bars("Scores", "score", values))]


def _cells(e: Evaluation) -> list[tuple[str, str, str]]:
    """Return the table's cells as (column, value, interval) tuples."""
    base, difference = e.base, e.difference
    return [
        ("score", e.score, counted(e.count, "row")),
        ("base", f"{base.score:.3f}" if base else "–", _interval(base.score_ci) if base else ""),
        ("tuned", f"{e.tuned.score:.3f}", _interval(e.tuned.score_ci)),
        ("difference", "–" if difference is None else f"{difference:+.3f}", _interval(e.difference_ci, "+")),
        ("won, tied, lost", f"{e.wins:,}, {e.ties:,}, {e.losses:,}" if base else "–", ""),
        ("answer tokens", _both(e, "completion_tokens"), "base, tuned" if base else ""),
        ("seconds", _both(e, "seconds"), "base, tuned" if base else ""),
    ]


def _groups(e: Evaluation) -> list[tuple[str, int, str, str]]:
    """Return (value, rows, base, tuned) for each value of the grouping column."""
    return [
        (name, group.rows, "–" if group.base is None else f"{group.base:.3f}", f"{group.tuned:.3f}")
        for name, group in e.groups.items()
    ]


def _both(e: Evaluation, name: str) -> str:
    return ", ".join(f"{getattr(one, name):,.0f}" for one in (e.base, e.tuned) if one is not None)


def _verdict(e: Evaluation, view: View) -> tuple[str, str]:
    failed = sum(one.failed for one in (e.base, e.tuned) if one is not None)
    lost = f"; {counted(failed, 'answer')} failed and scored 0" if failed else ""
    if view.export is None or view.stale or not of_this_export(e, view.export):
        return f"of an earlier export{lost}", "inconclusive"
    if e.threshold is None:
        return f"no threshold{lost}", ""
    return f"{e.verdict} (required: {e.threshold}){lost}", str(e.verdict)


def _interval(ends: Interval | None, sign: str = "") -> str:
    return f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}" if ends else ""
