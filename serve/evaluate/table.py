"""Print an evaluation: both models' figures, and the comparison in words."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from burnish.console import cell, counted
from burnish.evaluations.record import Evaluation, ModelResult


def show(record: Evaluation) -> None:
    """Print the table, the difference, and the verdict if there is a threshold."""
    made = Table(title=cell(f"{record.name}: {record.score} on {counted(record.count, 'row')}"), title_justify="left")
    for name in ("model", "score", "95% interval", "failed", "cut off", "prompt tokens", "answer tokens", "seconds"):
        made.add_column(name, justify="left" if name == "model" else "right")
    for what, one in (("base", record.base), ("tuned", record.tuned)):
        if one is not None:
            made.add_row(*map(cell, _cells(what, one)))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(made)
    for line in lines(record):
        console.print(cell(line), soft_wrap=True)


def _cells(what: str, one: ModelResult) -> list[str]:
    counts = (one.failed, one.cut, one.prompt_tokens, one.completion_tokens)
    return [f"{what} {one.quantization}", f"{one.score:.4f}", _interval(one.score_ci), *(f"{n:,}" for n in counts),
            f"{one.seconds:,.1f}"]  # fmt: skip


def _interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    return f"{ends[0]:{sign}.4f} to {ends[1]:{sign}.4f}" if ends else "-"


def lines(record: Evaluation) -> list[str]:
    """Return a description of the comparison and the verdict."""
    found = []
    if record.difference is not None:
        found.append(
            f"tuned minus base: {record.difference:+.4f} ({_interval(record.difference_ci, '+')}, paired bootstrap);"
            f" {record.wins:,} won, {record.ties:,} tied, {record.losses:,} lost; {record.differing:,} answers differ"
        )
    for name, group in record.groups.items():
        base = "" if group.base is None else f"{group.base:.3f} to "
        found.append(f"  {name} ({counted(group.rows, 'row')}): {base}{group.tuned:.3f}")
    if record.threshold is not None:
        found.append(f"{record.verdict} (required: {record.threshold})")
    return found
