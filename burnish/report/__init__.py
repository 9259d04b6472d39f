"""report.html: one self-contained page on a run, written again from the records that the run has."""

from __future__ import annotations

from pathlib import Path

from ..files import write_atomic
from ..run import Run
from .collect import Lengths, collect, lengths
from .page import render

REPORT = "report.html"

__all__ = ["REPORT", "Lengths", "lengths", "write"]


def write(run: Run) -> Path:
    """Write runs/<id>/report.html whole or not at all; returns its path.

    The page needs no network and no script. Raises RunError where train.json is missing, or a record is damaged.
    """
    path = run.path / REPORT
    write_atomic(path, render(collect(run)), private=True)  # it shows held-out rows
    return path
