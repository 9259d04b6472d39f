"""Collect a run's report data: its records and any other files that exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluations.record import Evaluation, evaluations
from ..exam.rows import Exam, ExamError
from ..files import file_sha256, read_jsonl, read_text
from ..records import ExportRecord, PushRecord, TrainRecord
from ..run import CONFIG, Run, RunError

METRICS = "logs/metrics.jsonl"
BINS_WANTED = 24
MAX_NUMBER = 10**15
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Lengths:
    """Row length histogram: counts for bins `bin_tokens` wide, starting at 0."""

    bin_tokens: int
    counts: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Return the representation in train.json (data.lengths)."""
        return {"bin_tokens": self.bin_tokens, "counts": self.counts}


def lengths(tokens: Sequence[int]) -> Lengths:
    """Count rows by length in about two dozen bins with a power-of-two width."""
    width = 1
    while width * BINS_WANTED <= max(tokens, default=0):
        width *= 2
    counts = [0] * (max(tokens, default=0) // width + 1)
    for count in tokens:
        counts[count // width] += 1
    return Lengths(width, counts)


@dataclass(frozen=True)
class View:
    """The page's data; fields that a run lacks are None or empty.

    `stale`: the export belongs to an earlier training than train.json. `lengths` describes the `lengths_of` rows.
    """

    run: Run
    train: TrainRecord
    export: ExportRecord | None
    push: PushRecord | None
    stale: bool
    points: list[dict[str, Any]]
    exam: Exam | None
    config: str
    lengths: Lengths | None
    lengths_of: str
    evaluations: tuple[Evaluation, ...] = ()

    def held_losses(self) -> tuple[float, float] | None:
        """Return the held-out response losses without and with the adapter, in nats per token."""
        held = self.exam.heldout() if self.exam else None
        if self.exam is None or held is None or not held.any():
            return None
        return -float(self.exam.base_true[held].mean()), -float(self.exam.trained.true[held].mean())

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Return a logged figure by step, omitting non-finite values (from a diverged run)."""
        points = [(float(p["step"]), float(p[key])) for p in self.points if _is_number(p.get(key))]
        return [(x, y) for x, y in points if math.isfinite(y)]

    def diverged(self) -> int:
        """Return the number of logged steps with a non-finite loss."""
        return sum(isinstance(p.get("loss"), float) and not math.isfinite(p["loss"]) for p in self.points)


def collect(run: Run) -> View:
    """Read a run's data. Raises RunError if train.json is missing or a record is damaged."""
    train = run.read(TrainRecord)
    export = run.read(ExportRecord) if run.has(ExportRecord) else None
    push = run.read(PushRecord) if run.has(PushRecord) else None
    stale = export is not None and export.train_sha256 != file_sha256(run.path / "train.json")
    exam = _exam(run, train.exam.path)
    recorded = train.data.lengths
    held = [len(q.input_ids) for q in exam.questions if q.kind == "heldout"] if exam else []
    return View(
        run=run,
        train=train,
        export=export,
        push=push,
        stale=stale,
        points=_points(run.inside(METRICS)),
        exam=exam,
        config=_text(run.inside(CONFIG)),
        lengths=Lengths(recorded.bin_tokens, recorded.counts) if recorded else lengths(held) if held else None,
        lengths_of="training" if recorded else "examined",
        evaluations=tuple(evaluations(run)),
    )


def _exam(run: Run, name: str) -> Exam | None:
    """Read the exam; None if it was removed or is damaged, since the report does not require it."""
    try:
        return Exam.load(run.tree(name))
    except (ExamError, RunError):
        return None


def _points(path: Path) -> list[dict[str, Any]]:
    """Read the logged points, skipping a partial line left by a killed process."""
    points = read_jsonl(path, partial=True) if path.is_file() else []
    return [p for p in points if isinstance(p, dict) and _is_number(p.get("step")) and math.isfinite(p["step"])]


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < MAX_NUMBER)


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_CONFIG_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""
