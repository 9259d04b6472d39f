"""Short training runs on a tiny base, and their results."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

SHORT = ("--data.max_length", "128", "--exam.answers", "0", "--train.save_steps", "1")


def command(base: Path, rows: Path, root: Path, *more: str, verb: str = "run") -> list[str]:
    """Return the command for a short training run."""
    where = ("--base.id", str(base), "--data.path", str(rows), "--run.root", str(root))
    return ["train", verb, *where, *SHORT, *more]


def only_fault(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only error line; there must be exactly one, and no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (fault,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return fault


def points(run: Path, key: str) -> list[float]:
    """Return the curve of one logged value."""
    lines = (run / "logs" / "metrics.jsonl").read_text().splitlines()
    return [entry[key] for line in lines if key in (entry := json.loads(line))]
