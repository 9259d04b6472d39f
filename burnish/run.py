"""A run directory: its id, its records, and how a command finds its run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .config.yaml_file import YamlError, read_yaml
from .console import warn
from .errors import UserError
from .fields import StageRecord, moment
from .files import FileError, irregular, read_json, read_regular, write_atomic
from .records import ExportRecord, PushRecord, TrainRecord
from .records.reading import MAX_BYTES, AnyRecord, RecordError, parse

RECORD_FILES: dict[type[StageRecord], str] = {
    TrainRecord: "train.json",
    ExportRecord: "export.json",
    PushRecord: "push.json",
}
COMMANDS: dict[type[StageRecord], str] = {
    TrainRecord: "make train DATA=...",
    ExportRecord: "make export",
    PushRecord: "make push",
}
CONFIG = "config.yaml"
ADAPTER_CONFIG = "adapter/adapter_config.json"
ADAPTER_FACTS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora")
# shown only if set, for example by the initial adapter
RARE_ADAPTER_FACTS = (
    "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
    "exclude_modules", "modules_to_save", "trainable_token_indices",
)  # fmt: skip

CLOCK_SLACK = timedelta(days=1)  # how far ahead another machine's clock may be


class RunError(UserError):
    """Raised when a run directory or record is missing, unfinished, damaged or has a different schema version."""


@dataclass(frozen=True)
class Run:
    """A run directory. Creating this object creates nothing on disk.

    `within`: the directory that must contain the run's files, if not the run itself: Hub snapshots link elsewhere.
    """

    path: Path
    within: Path | None = None

    @property
    def id(self) -> str:
        return self.path.name

    def has(self, kind: type[StageRecord]) -> bool:
        """Return whether the stage that writes this record is complete."""
        return os.path.isfile(self.path / RECORD_FILES[kind])  # False if the run is unreadable

    def read(self, kind: type[AnyRecord]) -> AnyRecord:
        """Read a record. Raises RunError with every error if it is missing, damaged, contradictory or too new."""
        path = self.inside(RECORD_FILES[kind])
        remedy = f"run `{COMMANDS[kind]}` again, or if someone gave you the run, ask for a new copy"
        try:
            return parse(kind, read_regular(path, MAX_BYTES))
        except FileNotFoundError:
            raise RunError(f"{self.path}: {path.name} is missing: this stage has not finished for the run") from None
        except RecordError as error:
            raise RunError([f"{path}: {fault}; {remedy}" for fault in error.faults]) from None
        except OSError as error:
            raise RunError(f"{path} can't be read: {error.strerror}") from None

    def inside(self, name: str) -> Path:
        """Return the path of a file or directory in the run, which need not exist.

        Raises RunError if it is something else (a pipe, a device), or a link that leaves the run.
        """
        path, root = self.path / name, (self.within or self.path)
        try:
            target = path.resolve()
        except (OSError, RuntimeError):
            raise RunError(f"{path} is a broken link: replace it with the file itself") from None
        if not target.is_relative_to(root.resolve()):
            raise RunError(
                f"{path} is a symbolic link to {target}, outside the run: replace it with its target"
                " (run.root may be on any disk)"
            )
        if why := irregular(target):
            raise RunError(f"{path}: {why}; a run may only contain files and directories")
        return path

    def tree(self, name: str) -> Path:
        """Return the path of a directory in the run that contains only files, directories and links within the run.

        Raises RunError if it contains anything else.
        """
        directory = self.inside(name)
        if directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK):
            owner = directory.stat().st_uid
            raise RunError(f"{directory} can't be read, it belongs to user {owner}: run this as that user")
        found = sorted(directory.rglob("*")) if directory.is_dir() else []
        self.check_inside(*(path.relative_to(self.path).as_posix() for path in found))
        return directory

    def check_inside(self, *names: str) -> None:
        """Raise RunError if any of these paths leaves the run, or is neither a file nor a directory."""
        faults: list[str] = []
        for name in names:
            try:
                self.inside(name)
            except RunError as error:
                faults += error.faults
        if faults:
            raise RunError(faults)

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the sections in config.yaml; empty if the file does not exist. Raises RunError if it is damaged."""
        path = self.inside(CONFIG)
        try:
            content = read_yaml(path)
        except FileNotFoundError:
            return {}
        except YamlError as error:
            raise RunError(f"{path}: {error}") from None
        content = {} if content is None else content
        if not isinstance(content, dict) or not all(
            isinstance(name, str) and isinstance(section, dict | None) for name, section in content.items()
        ):
            raise RunError(f"{path}: expected sections of settings")
        return {name: section or {} for name, section in content.items()}

    def write(self, record: StageRecord) -> None:
        """Write a record atomically."""
        write_atomic(self.path / RECORD_FILES[type(record)], record.model_dump_json(indent=2) + "\n")


def read_both(run: Run) -> tuple[TrainRecord, ExportRecord]:
    """Read a run's training and export records. Raises RunError with the errors of both."""
    faults: list[str] = []

    def read(kind: type[AnyRecord]) -> AnyRecord | None:
        try:
            return run.read(kind)
        except RunError as error:
            faults.extend(error.faults)
            return None

    trained, exported = read(TrainRecord), read(ExportRecord)
    if trained is None or exported is None:
        raise RunError(faults)
    return trained, exported


def now() -> str:
    """Return the current time in record format: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(base: str, data: str) -> str:
    """Return `<base>-<data>-<UTC time>`, with both names shortened and path-safe."""

    def clean(text: str) -> str:
        stem = re.sub(r"\.(gguf|jsonl?|csv|parquet)$", "", text.rstrip("/").rsplit("/", 1)[-1], flags=re.IGNORECASE)
        return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-.")[:40] or "x"

    return f"{clean(base)}-{clean(data)}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def find_run(root: Path, name: str | None, needs: type[StageRecord] = TrainRecord) -> Run:
    """Return the run `name` (an id or a path), or the newest run with the record `needs`.

    Raises RunError with the existing runs, or with the command that creates the missing record.
    """
    file = RECORD_FILES[needs]
    if name:
        run = named_run(root, name)
        if not run.has(needs):
            raise RunError(f"run '{run.id}' has no {file}: run `{COMMANDS[needs]}` first")
        return run
    finished = [run for path in directories(root) if (run := Run(path.resolve())).has(needs)]
    if not finished:
        raise RunError(f"no run in {root}/ has a {file} yet: run `{COMMANDS[needs]}` first")
    dated, faults = _dated(finished, needs)
    if not dated:
        raise RunError(faults)
    for fault in faults:
        warn(f"run skipped: {fault}")
    return max(dated, key=dated.__getitem__)


def _dated(runs: list[Run], kind: type[StageRecord]) -> tuple[dict[Run, tuple[datetime, int]], list[str]]:
    """Return each run's creation time, from its record or else its file's timestamp, and the errors.

    A time in the future is an error: the run would always be the newest.
    """
    dated, faults = {}, []
    for run in runs:
        try:
            created = moment(run.read(kind).created)
            if created > datetime.now(UTC) + CLOCK_SLACK:
                faults.append(f"{run.path / RECORD_FILES[kind]}: created: {created:%Y-%m-%d} is in the future")
                continue
            dated[run] = (created, (run.path / RECORD_FILES[kind]).stat().st_mtime_ns)
        except RunError as error:
            faults += error.faults[:1]
        except OSError as error:
            faults.append(f"{run.path} can't be read: {error.strerror}")
    return dated, faults


def named_run(root: Path, name: str) -> Run:
    """Return the run `name` (an id or a path), finished or not. Raises RunError with the existing runs."""
    path = next((p for p in (root / name, Path(name)) if os.path.isdir(p)), None)
    if path is None:
        there = sorted(p.name for p in directories(root))
        raise RunError(f"no run '{name}' in {root}/; found: {', '.join(there) or 'none yet'}")
    return Run(path.resolve())


def directories(root: Path) -> list[Path]:
    """Return the run directories in `root`, excluding hidden entries and links such as `latest`."""
    try:
        there = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{root} can't be read: {error.strerror}") from None
    return [root / entry.name for entry in there if entry.is_dir(follow_symlinks=False)]


def point_latest(run: Run) -> None:
    """Atomically point runs/latest at this run."""
    link = run.path.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(run.path.name)
    os.replace(link, run.path.parent / "latest")


def adapter_facts(run: Run) -> dict[str, Any]:
    """Return rank, scale, targets etc. by PEFT's names; empty if the run no longer contains an adapter."""
    try:
        config = read_json(run.inside(ADAPTER_CONFIG), MAX_BYTES)
    except (FileError, RunError):
        return {}
    if not isinstance(config, dict):
        return {}
    facts = {key: config[key] for key in ADAPTER_FACTS if key in config}
    facts |= {key: config[key] for key in RARE_ADAPTER_FACTS if _is_set(config.get(key))}
    if isinstance(targets := facts.get("target_modules"), list):
        facts["target_modules"] = sorted(map(str, targets))  # PEFT writes a set, in arbitrary order
    return facts


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or value == [] or value == {})
