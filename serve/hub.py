"""A model on the Hub: its records and one artefact, fetched into the cache and taken only as the records have it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish import hub
from burnish.console import say
from burnish.errors import UserError
from burnish.files import file_sha256
from burnish.hub import RECORDS, Reference, published_name
from burnish.records import Artefact, ExportRecord, TrainRecord
from burnish.run import Run


class RemoteError(UserError):
    """A repository that can't be fetched, or does not hold what its records say."""


@dataclass(frozen=True)
class Remote:
    """A published run: its records at one commit. `files` is where its snapshot lies in the cache."""

    reference: Reference
    files: Path
    train: TrainRecord
    export: ExportRecord

    @property
    def commit(self) -> str:
        """The commit that was fetched; the hub's cache names snapshots by it."""
        return self.files.name


def fetch_records(text: str) -> Remote:
    """Fetch the records that `hf://owner/name[@revision]` has. Raises RemoteError or HubError in one line."""
    reference = Reference.parse(text)
    files = _download(reference, reference.revision, RECORDS)
    missing = [name for name in RECORDS if not (files / name).is_file()]
    if missing:
        raise RemoteError(
            f"{text}: it has no {' and no '.join(missing)}, so Burnish did not publish it and nothing is proven of it:"
            f" download its .gguf file (hf download {reference.repo} FILE.gguf) and give that path as MODEL"
        )
    run = Run(files)
    export = run.read(ExportRecord)
    if file_sha256(files / "train.json") != export.train_sha256:
        raise RemoteError(f"{text}: train.json is not the one that export.json was made with: it was altered")
    return Remote(reference, files, run.read(TrainRecord), export)


def fetch_artefact(remote: Remote, artefact: Artefact) -> Path:
    """Fetch a GGUF at the records' own commit; returns its path in the cache. Its sha256 is checked at loading."""
    name = published_name(artefact.path)
    say(f"hub: {remote.reference.repo}, commit {remote.commit[:12]}: {name}, {artefact.bytes / 1e6:,.0f} MB")
    path = _download(remote.reference, remote.commit, [name]) / name
    if not path.is_file():
        raise RemoteError(f"hf://{remote.reference.repo}: {name} was not published there; give another with --artefact")
    return path


def _download(reference: Reference, revision: str | None, names: tuple[str, ...] | list[str]) -> Path:
    try:
        return hub.download(reference.repo, revision, names)
    except Exception as error:
        said = hub.reason(error, reference.repo, reference.revision)
        raise RemoteError(f"hf://{reference.repo}: {said}") from None
