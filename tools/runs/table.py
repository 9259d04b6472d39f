"""The table of all runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from burnish.console import cell
from burnish.overview.summary import Summary

PLAIN_WIDTH = 200  # where the output is not a terminal


def console() -> Console:
    """Return the console for tables."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def size(count: float) -> str:
    """Format a size in powers of ten."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def listing(runs: Sequence[Summary]) -> None:
    """Print one line per run, or a message if there are none."""
    if not runs:
        print("no runs yet: make train DATA=rows.jsonl creates one")
        return
    made = Table()
    for name in ("run", "state", "base", "data", "loss", "verdicts", "serves", "evaluations", "size"):
        made.add_column(name, justify="right" if name in ("loss", "size") else "left", overflow="fold")
    for one in runs:
        made.add_row(*map(cell, _cells(one)))
    console().print(made)
    print(f"{size(sum(one.size for one in runs))} in all")


def _cells(one: Summary) -> list[str]:
    rows = "" if one.rows is None else f" ({one.rows:,} rows)"
    return [
        one.run.id,
        one.state + (" (in use)" if one.locked and one.finished else ""),
        one.base.rsplit("/", 1)[-1],
        one.data.rsplit("/", 1)[-1] + rows,
        "" if one.eval_loss is None else f"{one.eval_loss:.3f}",
        one.verdicts,
        one.served,
        ", ".join(f"{name} {score:.3f}{f' {verdict}' if verdict else ''}" for name, score, verdict in one.scores),
        size(one.size),
    ]
