"""Artifacts: the interface for output formats (make, examine), and artifacts finished by an earlier export."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from burnish.console import say
from burnish.exam.rows import Exam
from burnish.files import FileError, read_json, tree_sha256, write_atomic
from burnish.records import Examined, Fidelity, Kind, TrainRecord
from burnish.run import Run

from .seal import SealError, is_sealed, seal
from .settings import ExportSettings

WORK = ".export"  # reused by later exports: hashes, fidelity, the merged model's answers
EXAMINED = 3  # increment when the examination changes, so that older figures are not reused

AnyExamined = TypeVar("AnyExamined", bound=Examined)


@dataclass
class Finished:
    """This run's examined artifacts by path; valid only for one `key` (training and settings)."""

    path: Path
    key: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]

    @staticmethod
    def load(run: Run, key: dict[str, Any]) -> Finished:
        """Read an earlier export's finished artifacts if the key and the seal match, otherwise none."""
        path = run.inside(f"{WORK}/kept.json")
        try:
            content: Any = read_json(path) if path.is_file() else {}
        except FileError:
            content = None  # damaged: rebuild everything
        if content and (why := _not_believed(content)):
            say(f"export: {path} {why}: all artifacts are created and measured again")
            content = None
        same = isinstance(content, dict) and content.get("key") == key
        known = content.get("artifacts") if same else None
        return Finished(path, key, known if isinstance(known, dict) else {})

    def find(self, run: Run, name: str, kind: type[AnyExamined]) -> AnyExamined | None:
        """Return a finished artifact if its files are unchanged, else None."""
        try:
            known = kind.model_validate(self.artifacts[name])
        except (KeyError, ValidationError):
            return None
        path = run.tree(name)
        return known if path.exists() and tree_sha256(path) == known.sha256 else None

    def others(self, run: Run, made: Collection[str]) -> list[Examined]:
        """Return unchanged GGUF files from earlier exports, except those in `made`."""
        names = sorted(self.artifacts.keys() - set(made))
        found = (self.find(run, name, Examined) for name in names if name.startswith(f"gguf/{run.id}-"))
        return [one for one in found if one is not None and one.kind == "gguf"]

    def add(self, examined: Examined) -> None:
        """Record a finished artifact."""
        self.artifacts[examined.path] = examined.model_dump()
        content = {"key": self.key, "artifacts": self.artifacts}
        content = json.loads(json.dumps(content))  # as it will be read back, with lists instead of tuples
        with suppress(SealError):  # the next export reports why it measures again
            content["seal"] = seal(content)
        write_atomic(self.path, json.dumps(content, indent=2) + "\n")


def _not_believed(content: Any) -> str:
    """Return why an earlier export's records are not trusted, or "" if they are."""
    if not isinstance(content, dict) or not content.get("seal"):
        return "has no seal"
    try:
        if is_sealed({name: value for name, value in content.items() if name != "seal"}, content["seal"]):
            return ""
    except SealError as error:
        return f"has a seal that can't be verified ({error})"
    return "was sealed with a different key (from a different user or machine), or was changed"


@dataclass(frozen=True)
class Job:
    """The inputs shared by all steps of one export."""

    settings: ExportSettings
    run: Run
    record: TrainRecord
    exam: Exam
    finished: Finished


@dataclass(frozen=True)
class Made:
    """A new artifact: its type, and how many tensors fell back to a different type, keyed by "wanted -> taken"."""

    quantization: str
    fallbacks: dict[str, int] = field(default_factory=dict)


class Format(Protocol):
    """An output format: writes an artifact to `path` (relative to the run) and examines it."""

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> Kind: ...

    def make(self, target: Path) -> Made:
        """Write the artifact atomically. Raises UserError if that fails."""
        ...

    def examine(self, path: Path) -> Fidelity:
        """Score the artifact on the run's exam."""
        ...


def produce(job: Job, output: Format) -> Examined:
    """Write and examine one artifact unless it already exists unchanged."""
    if found := job.finished.find(job.run, output.path, Examined):
        say(f"export: {output.path} exists and is unchanged")
        return found
    target = job.run.path / output.path
    made = output.make(target)
    examined = describe(target, output.path, output.kind, output.examine(target), made)
    job.finished.add(examined)
    return examined


def describe(target: Path, name: str, kind: Kind, fidelity: Fidelity, made: Made) -> Examined:
    """Return the record entry for an examined file or directory, with `name` as its path."""
    files = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
    return Examined(
        path=name,
        kind=kind,
        quantization=made.quantization,
        bytes=sum(p.stat().st_size for p in files),
        sha256=tree_sha256(target),
        fidelity=fidelity,
        fallbacks=made.fallbacks,
    )
