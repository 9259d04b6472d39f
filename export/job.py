"""One export's job, and what an earlier one of the same run left finished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.exam.rows import Exam
from burnish.files import tree_sha256, write_atomic
from burnish.records import TrainRecord
from burnish.run import Run

from .settings import ExportSettings

WORK = ".export"  # what a later export may keep: hashes, fidelity, the merge's own answers
EXAMINED = 2  # counts changes to what the examination finds, so that figures of an older one are not judged


@dataclass
class Kept:
    """Finished artefacts of this run, by path: their sha256, size and fidelity, valid for one `key` only."""

    path: Path
    key: dict[str, Any]
    artefacts: dict[str, dict[str, Any]]

    @staticmethod
    def load(run: Run, key: dict[str, Any]) -> Kept:
        path = run.path / WORK / "kept.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        return Kept(path, key, content.get("artefacts", {}) if content.get("key") == key else {})

    def find(self, run: Run, name: str) -> dict[str, Any] | None:
        """Return what is known of an artefact, if the file is still the same."""
        entry = self.artefacts.get(name)
        unchanged = entry and (run.path / name).exists() and tree_sha256(run.path / name) == entry["sha256"]
        return entry if unchanged else None

    def add(self, name: str, entry: dict[str, Any]) -> None:
        self.artefacts[name] = entry
        write_atomic(self.path, json.dumps({"key": self.key, "artefacts": self.artefacts}, indent=2) + "\n")


@dataclass(frozen=True)
class Job:
    """What every step of one export needs."""

    settings: ExportSettings
    run: Run
    record: TrainRecord
    exam: Exam
    kept: Kept


def entry(run: Run, name: str, kind: str, quantization: str, fidelity: dict[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of one finished file or directory of the run."""
    path = run.path / name
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {
        "path": name,
        "kind": kind,
        "quantization": quantization,
        "bytes": sum(p.stat().st_size for p in files),
        "sha256": tree_sha256(path),
        "fidelity": fidelity,
    }
