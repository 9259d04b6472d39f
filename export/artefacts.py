"""Artefacts: what every output format does (make, examine), and which artefacts an earlier export already finished."""

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

WORK = ".export"  # what a later export may reuse: hashes, fidelity, the merge's own answers
EXAMINED = 3  # counts changes to what the examination finds, so that figures of an older one are not judged

AnyExamined = TypeVar("AnyExamined", bound=Examined)


@dataclass
class Finished:
    """Examined artefacts of this run, by path; they are valid for one `key` (the training, the settings) only."""

    path: Path
    key: dict[str, Any]
    artefacts: dict[str, dict[str, Any]]

    @staticmethod
    def load(run: Run, key: dict[str, Any]) -> Finished:
        """Read what an earlier export with the same key finished, if it was written here."""
        path = run.inside(f"{WORK}/kept.json")
        try:
            content: Any = read_json(path) if path.is_file() else {}
        except FileError:
            content = None  # damaged: everything is made again
        if content and (why := _not_believed(content)):
            say(f"export: {path} {why}: everything is made and measured again")
            content = None
        same = isinstance(content, dict) and content.get("key") == key
        known = content.get("artefacts") if same else None
        return Finished(path, key, known if isinstance(known, dict) else {})

    def find(self, run: Run, name: str, kind: type[AnyExamined]) -> AnyExamined | None:
        """Return what is known of an artefact, if its files are still the same."""
        try:
            known = kind.model_validate(self.artefacts[name])
        except (KeyError, ValidationError):
            return None
        path = run.tree(name)
        return known if path.exists() and tree_sha256(path) == known.sha256 else None

    def others(self, run: Run, made: Collection[str]) -> list[Examined]:
        """Return the GGUF files that earlier exports made beside those in `made`, where they are still the same."""
        names = sorted(self.artefacts.keys() - set(made))
        found = (self.find(run, name, Examined) for name in names if name.startswith(f"gguf/{run.id}-"))
        return [one for one in found if one is not None and one.kind == "gguf"]

    def add(self, examined: Examined) -> None:
        """Write down an artefact that is finished."""
        self.artefacts[examined.path] = examined.model_dump()
        content = {"key": self.key, "artefacts": self.artefacts}
        content = json.loads(json.dumps(content))  # as it will be read: lists for tuples
        with suppress(SealError):  # the next export says why it measures again
            content["seal"] = seal(content)
        write_atomic(self.path, json.dumps(content, indent=2) + "\n")


def _not_believed(content: Any) -> str:
    """Say why what an earlier export kept does not count; "" where it does."""
    if not isinstance(content, dict) or not content.get("seal"):
        return "has no seal"
    try:
        if is_sealed({name: value for name, value in content.items() if name != "seal"}, content["seal"]):
            return ""
    except SealError as error:
        return f"has a seal that can't be checked ({error})"
    return "is sealed with another key (of another user or machine), or was changed"


@dataclass(frozen=True)
class Job:
    """What every step of one export needs."""

    settings: ExportSettings
    run: Run
    record: TrainRecord
    exam: Exam
    finished: Finished


@dataclass(frozen=True)
class Made:
    """What is known of an artefact once it is made: its type, and the tensors of another, by "wanted -> taken"."""

    quantization: str
    fallbacks: dict[str, int] = field(default_factory=dict)


class Format(Protocol):
    """One output format: how an artefact is made at `path` (relative to the run), and how it is examined."""

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> Kind: ...

    def make(self, target: Path) -> Made:
        """Write the artefact, whole or not at all. Raises UserError where it can't be made."""
        ...

    def examine(self, path: Path) -> Fidelity:
        """Score the artefact on the run's exam."""
        ...


def produce(job: Job, output: Format) -> Examined:
    """Make and examine one artefact, unless it is there and unchanged."""
    if found := job.finished.find(job.run, output.path, Examined):
        say(f"export: {output.path} is there and unchanged")
        return found
    target = job.run.path / output.path
    made = output.make(target)
    examined = describe(target, output.path, output.kind, output.examine(target), made)
    job.finished.add(examined)
    return examined


def describe(target: Path, name: str, kind: Kind, fidelity: Fidelity, made: Made) -> Examined:
    """Return what a record holds of one examined file or directory, which it calls `name`."""
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
