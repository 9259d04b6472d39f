"""How a run resumes: found by its name, or by its settings and data, and only where nothing about it has changed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from burnish import run as runs
from burnish.console import say, warn
from burnish.data.files import data_sha256
from burnish.files import FileError, check_writable
from burnish.records import TrainRecord
from burnish.run import CONFIG, Run, RunError

from .data.prepare import Prepared
from .resolved import Resolved
from .settings import TrainSettings
from .started import STARTED, StartedRun, inputs, write_config, write_started
from .world import World

DISK_BYTES = 500_000_000  # checkpoints and the adapter of a small model; planning knows better
# resolved when a run starts and the same when it resumes: memory and machine may be others then, the model may not
FIXED = (
    ("base", "revision"),
    ("base", "quantization"),
    ("base", "dtype"),
    ("base", "attn_implementation"),
    ("base", "backend"),
    ("train", "optim"),
)
OPEN = ("auto", None)
# what a training reads and writes in its run
TOUCHED = (
    CONFIG, STARTED, "train.json", "report.html", "adapter", "checkpoints", "exam", "logs", "logs/metrics.jsonl",
    "logs/trainer-stats.json",
)  # fmt: skip


def choose(settings: TrainSettings, resume: bool) -> TrainSettings:
    """Check that the run can be written, and resolve what must be known before the data is read.

    Without a name, the newest unfinished run with the same settings, data and base is resumed, so that the same command
    given again after an interruption does; with `resume` there must be one. A resumed run keeps the date that its
    templates saw, and what was resolved about its model.
    """
    root, name = Path(settings.run.root), settings.run.name
    check_writable(root, DISK_BYTES, "training")
    if name is None and (name := _newest_unfinished(root, settings)) is not None:
        say(f"train: going on with the unfinished run '{name}' (to begin another, give it a name: RUN= or --run.name)")
    if resume and name is None:
        raise RunError(f"--resume: no unfinished run with these settings in {root}/; leave it out to begin one")
    if resume and not os.path.isfile(root / str(name) / CONFIG):
        raise RunError(f"--resume: no run '{name}' in {root}/")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})
    if name is not None and os.path.isfile(root / name / CONFIG):
        settings = as_started(settings, StartedRun.read(Run(root / name)))
    date = settings.chat.date or datetime.now(UTC).strftime("%Y-%m-%d")
    return settings.model_copy(update={"chat": settings.chat.model_copy(update={"date": date})})


def as_started(settings: TrainSettings, started: StartedRun) -> TrainSettings:
    """Return the settings with what was resolved when the run started, where they are what was given then."""
    for section, key in (*FIXED, ("chat", "date")):
        now, used = getattr(settings, section), started.used.get(section, {}).get(key)
        same = getattr(now, key) == started.asked.get(section, {}).get(key) or (key == "date" and now.date is None)
        if same and used not in OPEN:
            settings = settings.model_copy(update={section: now.model_copy(update={key: used})})
    return settings


def settle_name(settings: TrainSettings, prepared: Prepared) -> TrainSettings:
    """Return the settings with a name for the run: the one that was given, or one of its own."""
    name = settings.run.name or runs.new_id(prepared.base.name, settings.data.path)
    return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})


def is_finished(settings: TrainSettings) -> bool:
    """Whether the run that the settings name has nothing left to do."""
    return settings.run.name is not None and Run(Path(settings.run.root) / settings.run.name).has(TrainRecord)


def finished_run(settings: TrainSettings, prepared: Prepared) -> Run:
    """Return the finished run that the settings name. Raises RunError where its settings or data were others."""
    run = Run(Path(settings.run.root).resolve() / str(settings.run.name))
    _check_same(StartedRun.read(run), settings, inputs(prepared))
    return run


def open_run(asked: TrainSettings, resolved: Resolved, prepared: Prepared, world: World) -> tuple[Run, Resolved]:
    """Return the run to work on, with config.yaml; `asked` are the settings before they were resolved.

    A named run that exists is resumed where it stopped, if its settings, data and base are the same.
    """
    name = asked.run.name or runs.new_id(prepared.base.name, asked.data.path)
    run, resolved = Run(Path(asked.run.root).resolve() / name), resolved.named(name)
    run.check_inside(*TOUCHED)
    for directory in ("adapter", "checkpoints", "logs"):
        run.tree(directory)
    found = {**inputs(prepared), "parent_sha256": resolved.parent_sha256}
    if os.path.isfile(run.path / CONFIG):
        started = StartedRun.read(run)
        if not started.whole:
            raise RunError(
                f"run '{run.id}' was begun by an older version, which did not record what it decided: finish it with"
                f" that version, or choose another name (RUN=, --run.name), or remove {run.path} to begin it again"
            )
        _check_same(started, asked, found)
    elif world.is_main:
        write_started(run, asked, found)
    if world.is_main:
        write_config(run, resolved)
    return run, resolved


def _check_same(started: StartedRun, settings: TrainSettings, found: dict[str, str | None]) -> None:
    """Raise RunError with every difference between a run as it was started and the settings now."""
    faults = started.differences(settings)
    faults += [
        f"{key.removesuffix('_sha256')}: its content is not what the run began with"
        for key, value in found.items()
        if key.endswith("sha256") and started.inputs.get(key, value) != value
    ]
    if faults:
        raise RunError(
            [f"run '{started.run.id}' was begun with other settings: {fault}" for fault in faults]
            + [f"choose another name, or remove {started.run.path} to begin it again"]
        )


def _newest_unfinished(root: Path, settings: TrainSettings) -> str | None:
    """Return the newest run that was started with these settings on this very data, and has not finished."""
    given = {"data_sha256": settings.data.path, "eval_sha256": settings.data.eval_path}
    hashes = {k: data_sha256(Path(path)) if path and Path(path).exists() else None for k, path in given.items()}
    runs_there = [Run(p) for p in runs.directories(root) if os.path.isfile(p / CONFIG)]
    started = filter(None, (_started_with(run, settings, hashes) for run in runs_there if not run.has(TrainRecord)))
    found = max(started, key=lambda one: one.created, default=None)
    return found.run.id if found else None


def _started_with(run: Run, settings: TrainSettings, hashes: dict[str, str | None]) -> StartedRun | None:
    """Return a run that was started with these settings on this data and can be resumed, else None."""
    try:
        started = StartedRun.read(run)
    except (FileError, RunError):
        return None
    same_base = started.asked.get("base", {}).get("id") == settings.base.id
    same_inputs = all(started.inputs.get(key) == digest for key, digest in hashes.items())
    if not (same_base and same_inputs) or started.differences(settings):
        return None
    if not started.whole:
        warn(
            f"the unfinished run '{run.id}' can't be resumed: an older version started it and did not record everything"
            " it resolved"
        )
        return None
    return started
