"""One run in a line: base, data, losses, verdicts, evaluations, size. A damaged run is described, not an error."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .. import lock
from ..errors import UserError
from ..evaluations.record import evaluations
from ..files import file_sha256, first_line
from ..records import ExportRecord, PushRecord, TrainRecord
from ..run import Run, RunError, directories

UNFINISHED = "not trained"


@dataclass(frozen=True)
class Summary:
    """What is known of a run. `state`: how far it is, or what is damaged; `served`: the file that serve loads.

    `scores`: (name, score of the tuned model, verdict or None) for each evaluation.
    """

    run: Run
    state: str
    created: str = ""
    base: str = ""
    data: str = ""
    rows: int | None = None
    eval_loss: float | None = None
    verdicts: str = ""
    served: str = ""
    scores: tuple[tuple[str, float, str | None], ...] = ()
    size: int = 0
    locked: bool = False

    @property
    def finished(self) -> bool:
        """Whether training has finished."""
        return self.run.has(TrainRecord)


def summaries(root: Path) -> list[Summary]:
    """Return all runs in a directory, newest first, unfinished ones last."""
    found = [summary(Run(path)) for path in directories(root) if _is_run(path)]
    return sorted(found, key=lambda one: (one.created, one.run.id), reverse=True)


def _is_run(path: Path) -> bool:
    """Return whether a directory looks like a run rather than something of the user's."""
    return any((path / name).exists() for name in ("train.json", "config.yaml", lock.LOCK))


def summary(run: Run) -> Summary:
    """Return a run's summary."""
    size, locked = size_of(run.path), is_locked(run)
    if not run.has(TrainRecord):
        return Summary(run, "in training" if locked else UNFINISHED, size=size, locked=locked)
    try:
        train = run.read(TrainRecord)
        export = run.read(ExportRecord) if run.has(ExportRecord) else None
        stale = export is not None and export.train_sha256 != file_sha256(run.path / "train.json")
        scores = tuple((e.name, e.tuned.score, e.verdict) for e in evaluations(run))
    except (UserError, OSError) as error:
        return Summary(run, f"damaged: {first_line(error)}", size=size, locked=locked)
    return Summary(
        run, _state(run, export, stale), train.created, train.base.id, train.data.path, train.data.rows,
        train.metrics.eval_loss, _verdicts(export), "" if stale else _served(export), scores, size, locked,
    )  # fmt: skip


def _state(run: Run, export: ExportRecord | None, stale: bool) -> str:
    if export is None:
        return "trained"
    if stale:
        return "trained again, not exported"
    return "published" if run.has(PushRecord) else "exported"


def _verdicts(export: ExportRecord | None) -> str:
    counts = Counter(artifact.verdict for artifact in export.artefacts) if export else Counter[str]()
    return ", ".join(
        f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda pair: pair[0] != "pass")
    )


def _served(export: ExportRecord | None) -> str:
    default = next((a for a in export.artefacts if a.path == export.default), None) if export else None
    return default.quantization if default else ""


def is_locked(run: Run) -> bool:
    """Return whether another process is working on the run."""
    try:
        lock.check(run.path)
    except RunError:
        return True
    return False


def size_of(path: Path) -> int:
    """Return the size of a file, or of a directory's files, in bytes. Links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return total
