"""A run directory: its id, its records, and how a command finds the run that it works on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from .errors import UserError
from .files import FileError, read_json, write_atomic
from .records import ExportRecord, PushRecord, Record, TrainRecord

AnyRecord = TypeVar("AnyRecord", TrainRecord, ExportRecord, PushRecord)
RECORD_FILES: dict[type[Record], str] = {
    TrainRecord: "train.json",
    ExportRecord: "export.json",
    PushRecord: "push.json",
}
COMMANDS: dict[type[Record], str] = {
    TrainRecord: "make train DATA=...",
    ExportRecord: "make export",
    PushRecord: "make push",
}
ADAPTER_CONFIG = "adapter/adapter_config.json"
ADAPTER_FACTS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora")
# shown where an adapter that training started from has them
RARE_ADAPTER_FACTS = (
    "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern",
    "exclude_modules", "modules_to_save", "trainable_token_indices",
)  # fmt: skip


class RunError(UserError):
    """A run directory or record that is missing, unfinished, damaged or of another schema version."""


@dataclass(frozen=True)
class Run:
    """One run directory. Nothing is created by making this object."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def has(self, kind: type[Record]) -> bool:
        """Whether the stage that writes this record has finished."""
        return (self.path / RECORD_FILES[kind]).is_file()

    def read(self, kind: type[AnyRecord]) -> AnyRecord:
        """Read a record. Raises RunError where it is missing, damaged or of another schema version."""
        path = self.path / RECORD_FILES[kind]
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path}: {path.name} is not there: this stage has not finished for the run") from None
        except (ValidationError, OSError) as error:
            detail = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, detail["loc"])) or "the file"
            raise RunError(f"{path}: {where}: {detail['msg']}; run the stage that writes it again") from None

    def write(self, record: Record) -> None:
        """Write a record whole or not at all."""
        write_atomic(self.path / RECORD_FILES[type(record)], record.model_dump_json(indent=2) + "\n")


def now() -> str:
    """Return this moment as records write it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(base: str, data: str) -> str:
    """Return `<base>-<data>-<UTC time>`, both shortened to the characters that are safe in a path."""

    def clean(text: str) -> str:
        stem = re.sub(r"\.(gguf|jsonl?|csv|parquet)$", "", text.rstrip("/").rsplit("/", 1)[-1], flags=re.IGNORECASE)
        return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-.")[:40] or "x"

    return f"{clean(base)}-{clean(data)}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def find_run(root: Path, name: str | None, needs: type[Record] = TrainRecord) -> Run:
    """Return the run called `name` (an id or a path), or the newest one that has the record `needs`.

    Raises RunError that lists what there is and says which command makes what is missing.
    """
    file = RECORD_FILES[needs]
    if name:
        run = _named_run(root, name)
        if not run.has(needs):
            raise RunError(f"run '{run.id}' has no {file}: run `{COMMANDS[needs]}` for it first")
        return run
    finished = [run for path in _run_directories(root) if (run := Run(path.resolve())).has(needs)]
    if not finished:
        raise RunError(f"no run in {root}/ has its {file} yet: run `{COMMANDS[needs]}` first")
    return max(finished, key=lambda run: (run.path / file).stat().st_mtime_ns)


def _named_run(root: Path, name: str) -> Run:
    path = next((p for p in (root / name, Path(name)) if p.is_dir()), None)
    if path is None:
        there = sorted(p.name for p in _run_directories(root))
        raise RunError(f"no run '{name}' in {root}/; there is: {', '.join(there) or 'none yet'}")
    return Run(path.resolve())


def _run_directories(root: Path) -> list[Path]:
    """Return the directories of runs in `root`; links such as `latest` are left out."""
    return [p for p in root.iterdir() if p.is_dir() and not p.is_symlink()] if root.is_dir() else []


def point_latest(run: Run) -> None:
    """Make runs/latest point at this run, in one step."""
    link = run.path.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(run.path.name)
    os.replace(link, run.path.parent / "latest")


def adapter_facts(run: Run) -> dict[str, Any]:
    """Return rank, scale, targets and the like under PEFT's names; empty where the run has no adapter any more."""
    try:
        config = read_json(run.path / ADAPTER_CONFIG)
    except FileError:
        return {}
    if not isinstance(config, dict):
        return {}
    facts = {key: config[key] for key in ADAPTER_FACTS if key in config}
    facts |= {key: config[key] for key in RARE_ADAPTER_FACTS if _is_set(config.get(key))}
    if isinstance(targets := facts.get("target_modules"), list):
        facts["target_modules"] = sorted(map(str, targets))  # PEFT writes a set, in any order
    return facts


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or value == [] or value == {})
