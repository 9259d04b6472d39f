"""report.html: a self-contained page about a run, regenerated from its records after each stage."""

from __future__ import annotations

from pathlib import Path

from ..files import write_atomic
from ..run import Run
from .collect import Lengths, collect, lengths
from .page import render

REPORT = "report.html"

__all__ = ["REPORT", "Lengths", "lengths", "write"]


def write(run: Run) -> Path:
    """Write runs/<id>/report.html atomically; return its path.

    The page needs neither network nor scripts. Raises RunError if train.json is missing or a record is damaged.
    """
    path = run.path / REPORT
    write_atomic(path, render(collect(run)), private=True)  # the page shows held-out rows
    return path
