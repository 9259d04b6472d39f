"""Resume a run, found by name or by settings and data, only if its settings and inputs are unchanged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from burnish import run as runs
from burnish.console import say, warn
from burnish.files import FileError, check_writable
from burnish.records import TrainRecord
from burnish.run import CONFIG, Run, RunError

from .data.prepare import Prepared
from .data.sources import data_hashes
from .resolved import Resolved
from .settings import TrainSettings
from .started import STARTED, StartedRun, inputs, write_config, write_started
from .world import World

DISK_BYTES = 500_000_000  # checkpoints and adapter for a small model; the plan computes the actual number
# settings kept from the original start when resuming: memory and machine may change, but not the model
FIXED = (
    ("base", "revision"),
    ("base", "quantization"),
    ("base", "dtype"),
    ("base", "attn_implementation"),
    ("base", "backend"),
    ("train", "optim"),
)
OPEN = ("auto", None)
# run paths that training reads or writes
TOUCHED = (
    CONFIG, STARTED, "train.json", "report.html", "adapter", "checkpoints", "exam", "logs", "logs/metrics.jsonl",
    "logs/trainer-stats.json",
)  # fmt: skip


def choose(settings: TrainSettings, resume: bool) -> TrainSettings:
    """Check that the run is writable, and resolve the settings needed before the data is read.

    Without a name, the newest unfinished run with the same settings, data and base is resumed, so that repeating a
    command after an interruption resumes the run; with `resume`, such a run must exist. A resumed run keeps its
    template date and resolved model settings.
    """
    root, name = Path(settings.run.root), settings.run.name
    check_writable(root, DISK_BYTES, "training")
    if name is None and (name := _newest_unfinished(root, settings)) is not None:
        say(f"train: resuming the unfinished run '{name}' (to start another, set a name with RUN= or --run.name)")
    if resume and name is None:
        raise RunError(f"--resume: no unfinished run with these settings in {root}/: remove --resume to start one")
    if resume and not os.path.isfile(root / str(name) / CONFIG):
        raise RunError(f"--resume: no run '{name}' in {root}/")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})
    if name is not None and os.path.isfile(root / name / CONFIG):
        settings = as_started(settings, StartedRun.read(Run(root / name)))
    date = settings.chat.date or datetime.now(UTC).strftime("%Y-%m-%d")
    return settings.model_copy(update={"chat": settings.chat.model_copy(update={"date": date})})


def as_started(settings: TrainSettings, started: StartedRun) -> TrainSettings:
    """Return the settings with the values resolved at the run's start, where the setting itself is unchanged."""
    for section, key in (*FIXED, ("chat", "date")):
        now, used = getattr(settings, section), started.used.get(section, {}).get(key)
        same = getattr(now, key) == started.requested.get(section, {}).get(key) or (key == "date" and now.date is None)
        if same and used not in OPEN:
            settings = settings.model_copy(update={section: now.model_copy(update={key: used})})
    return settings


def settle_name(settings: TrainSettings, prepared: Prepared) -> TrainSettings:
    """Return the settings with the run's name, as set or newly generated."""
    name = settings.run.name or runs.new_id(prepared.base.name, settings.data.path)
    return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})


def is_finished(settings: TrainSettings) -> bool:
    """Return whether the settings name a finished run."""
    return settings.run.name is not None and Run(Path(settings.run.root) / settings.run.name).has(TrainRecord)


def finished_run(settings: TrainSettings, prepared: Prepared) -> Run:
    """Return the finished run that the settings name. Raises RunError if its settings or data differ."""
    run = Run(Path(settings.run.root).resolve() / str(settings.run.name))
    _check_same(StartedRun.read(run), settings, inputs(prepared))
    return run


def open_run(requested: TrainSettings, resolved: Resolved, prepared: Prepared, world: World) -> tuple[Run, Resolved]:
    """Return the run to train and its settings; write config.yaml. `requested` contains the settings before resolution.

    An existing run is resumed if its settings, data and base are the same.
    """
    name = requested.run.name or runs.new_id(prepared.base.name, requested.data.path)
    run, resolved = Run(Path(requested.run.root).resolve() / name), resolved.named(name)
    run.check_inside(*TOUCHED)
    for directory in ("adapter", "checkpoints", "logs"):
        run.tree(directory)
    found = {**inputs(prepared), "parent_sha256": resolved.parent_sha256}
    if os.path.isfile(run.path / CONFIG):
        started = StartedRun.read(run)
        if not started.whole:
            raise RunError(
                f"run '{run.id}' was started by an older version that did not record resolved settings: finish it with"
                f" that version, choose another name (RUN=, --run.name), or remove {run.path} to start again"
            )
        _check_same(started, requested, found)
    elif world.is_main:
        write_started(run, requested, found)
    if world.is_main:
        write_config(run, resolved)
    return run, resolved


def _check_same(started: StartedRun, settings: TrainSettings, found: dict[str, str | None]) -> None:
    """Raise RunError listing every difference between a run's start and the current settings and inputs."""
    faults = started.differences(settings)
    faults += [
        f"{key.removesuffix('_sha256')}: its content has changed since the run started"
        for key, value in found.items()
        if key.endswith("sha256") and started.inputs.get(key, value) != value
    ]
    if faults:
        raise RunError(
            [f"run '{started.run.id}' was started differently: {fault}" for fault in faults]
            + [f"choose another name, or remove {started.run.path} to start again"]
        )


def _newest_unfinished(root: Path, settings: TrainSettings) -> str | None:
    """Return the newest unfinished run started with these settings and data."""
    runs_there = [Run(p) for p in runs.directories(root) if os.path.isfile(p / CONFIG)]
    unfinished = [run for run in runs_there if not run.has(TrainRecord)]
    hashes = data_hashes(settings.data) if unfinished else {}
    started = filter(None, (_started_with(run, settings, hashes) for run in unfinished))
    found = max(started, key=lambda one: one.created, default=None)
    return found.run.id if found else None


def _started_with(run: Run, settings: TrainSettings, hashes: dict[str, str | None]) -> StartedRun | None:
    """Return the run's start if its settings and data match and it can be resumed, else None."""
    try:
        started = StartedRun.read(run)
    except (FileError, RunError):
        return None
    same_base = started.requested.get("base", {}).get("id") == settings.base.id
    same_inputs = all(started.inputs.get(key) == digest for key, digest in hashes.items())
    if not (same_base and same_inputs) or started.differences(settings):
        return None
    if not started.whole:
        warn(
            f"the unfinished run '{run.id}' can't be resumed: an older version started it and did not record all"
            " resolved settings"
        )
        return None
    return started
