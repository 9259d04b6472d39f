"""How a run begins: a new directory, or one that goes on where it stopped if nothing about it has changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from burnish import run as runs
from burnish.console import say
from burnish.run import Run, RunError, TrainRecord
from train.prepare import Prepared
from train.settings import TrainSettings

CONFIG, STARTED, DECIDED = "config.yaml", "started.json", "decided.json"
DISK_BYTES = 500_000_000  # checkpoints and the adapter of a small model; planning knows better


def resolve(settings: TrainSettings, resume: bool) -> TrainSettings:
    """Check that the run can be kept, and settle what was left open: which run goes on, and the template's date.

    Without a name, the newest unfinished run with the same settings, data and base goes on, so that the same command
    given again after an interruption does; with `resume` there must be one. It keeps the date that its templates saw.
    """
    root, name = Path(settings.run.root), settings.run.name
    runs.check_writable(root, DISK_BYTES, "training")
    if name is None and (name := _newest_unfinished(root, settings)) is not None:
        say(f"train: going on with the unfinished run '{name}' (to begin another, give it a name: RUN= or --run.name)")
    if resume and name is None:
        raise RunError(f"--resume: no unfinished run with these settings in {root}/; leave it out to begin one")
    if resume and not (root / str(name) / CONFIG).is_file():
        raise RunError(f"--resume: no run '{name}' in {root}/")
    date = settings.chat.date or datetime.now(UTC).strftime("%Y-%m-%d")
    if name and not settings.chat.date and (root / name / CONFIG).is_file():
        date = _dump(root / name)["chat"]["date"]
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"name": name}),
            "chat": settings.chat.model_copy(update={"date": date}),
        }
    )


def is_finished(settings: TrainSettings) -> bool:
    """Whether the run that the settings name has nothing left to do."""
    return settings.run.name is not None and Run(Path(settings.run.root) / settings.run.name).has(TrainRecord)


def open_run(settings: TrainSettings, prepared: Prepared) -> Run:
    """Return the run to work on.

    A named run that exists goes on where it stopped, if its settings, data and base are the same.
    """
    name = settings.run.name or runs.new_id(prepared.base.name, settings.data.path)
    run = Run(Path(settings.run.root).resolve() / name)
    if (run.path / CONFIG).is_file():
        _check_same(run, settings, prepared)
        return run
    runs.write_atomic(run.path / STARTED, json.dumps(inputs(prepared)) + "\n")
    runs.write_atomic(run.path / CONFIG, yaml.safe_dump(settings.model_dump(), sort_keys=False, allow_unicode=True))
    return run


def as_decided(settings: TrainSettings) -> TrainSettings:
    """Return the settings with what was decided when this run began: memory may be another now, the model may not."""
    path = Path(settings.run.root) / str(settings.run.name) / DECIDED
    if settings.run.name is None or not path.is_file():
        return settings
    kept = runs.read_json(path)
    base = settings.base.model_copy(update={key: kept[key] for key in ("quantization", "backend")})
    train = settings.train.model_copy(update={"optim": kept["optim"]})
    return settings.model_copy(update={"base": base, "train": train})


def keep_decision(run: Run, quantization: str, backend: str, optim: str) -> None:
    """Keep what "auto" became, for when this run goes on."""
    said = {"quantization": quantization, "backend": backend, "optim": optim}
    runs.write_atomic(run.path / DECIDED, json.dumps(said) + "\n")


def inputs(prepared: Prepared) -> dict[str, str | None]:
    return {
        "data_sha256": prepared.data_sha256,
        "eval_sha256": prepared.eval_sha256,
        "base_sha256": prepared.base.sha256,
        "chat_template_sha256": runs.text_sha256(prepared.template.source) if prepared.template else None,
        "template_date": prepared.template.date if prepared.template else "",
    }


def _dump(run: Path) -> dict[str, Any]:
    """Return the settings that a run was begun with."""
    content: dict[str, Any] = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    return content


def _comparable(dump: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that only say where things are, or where they go afterwards."""
    flat = {f"{s}.{k}": v for s, section in dump.items() for k, v in section.items() if s not in ("run", "push")}
    for key in ("data.path", "base.id"):
        flat.pop(key, None)  # compared by their sha256 instead
    return flat


def _check_same(run: Run, settings: TrainSettings, prepared: Prepared) -> None:
    """Raise RunError with every difference between a run as it was begun and what is asked now."""
    was = _comparable(_dump(run.path))
    asked = _comparable(settings.model_dump())
    faults = [
        f"{key}: the run has {was.get(key)!r}, now {value!r}" for key, value in asked.items() if was.get(key) != value
    ]
    began = runs.read_json(run.path / STARTED)
    faults += [
        f"{key.removesuffix('_sha256')}: its content is not what the run began with"
        for key, value in inputs(prepared).items()
        if key.endswith("sha256") and began.get(key, value if key == "eval_sha256" else None) != value
    ]
    if faults:
        raise RunError(
            [f"run '{run.id}' was begun with other settings: {fault}" for fault in faults]
            + [f"choose another name, or remove {run.path} to begin it anew"]
        )


def _newest_unfinished(root: Path, settings: TrainSettings) -> str | None:
    """Return the newest run that was begun with these settings on this very data, and has not finished."""
    asked = _comparable(settings.model_dump())
    if settings.chat.date is None:
        asked.pop("chat.date")
    given = {"data_sha256": settings.data.path, "eval_sha256": settings.data.eval_path}
    hashes = {k: runs.file_sha256(Path(path)) if path and Path(path).is_file() else None for k, path in given.items()}

    def same(run: Path) -> bool:
        was = _dump(run)
        began = runs.read_json(run / STARTED)
        same_inputs = was["base"]["id"] == settings.base.id and all(
            began.get(key) == digest for key, digest in hashes.items()
        )
        return same_inputs and asked.items() <= _comparable(was).items()

    begun = [p for p in root.iterdir() if not p.is_symlink() and (p / CONFIG).is_file() and not Run(p).has(TrainRecord)]
    return max(filter(same, begun), key=lambda p: (p / CONFIG).stat().st_mtime_ns, default=Path()).name or None
