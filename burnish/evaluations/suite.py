"""Question sets of our own, for measuring what a model forgot."""

from __future__ import annotations

from pathlib import Path

SUITES = Path(__file__).parent / "suites"


def suite_path(name: str) -> Path:
    """Return the file of a question set."""
    return SUITES / f"{name}.jsonl"
