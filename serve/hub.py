"""A published run: downloads its records and one artifact from the Hub into the cache, and checks them."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path

from burnish import hub
from burnish.console import say
from burnish.errors import UserError
from burnish.files import file_sha256
from burnish.hub import RECORDS, Reference, published_name
from burnish.records import Artifact, ExportRecord, TrainRecord
from burnish.run import Run, read_both


class PublishedError(UserError):
    """Raised when a repository can't be downloaded or does not match its records."""


@dataclass(frozen=True)
class Published:
    """A published run: its records at one commit. `files` is its snapshot directory in the cache."""

    reference: Reference
    files: Path
    train: TrainRecord
    export: ExportRecord

    @property
    def commit(self) -> str:
        """The downloaded commit, which names the snapshot in the hub's cache."""
        return self.files.name


def fetch_records(text: str) -> Published:
    """Download the records of `hf://owner/name[@revision]`. Raises PublishedError or HubError."""
    reference = Reference.parse(text)
    files = _download(reference, reference.revision, RECORDS)
    if (files / "train.json").is_file() and not (files / "export.json").is_file():
        raise PublishedError(
            f"{text}: only an adapter was published, but serve needs a GGUF: run `make export` and `make push` on the "
            "machine that has the run"
        )
    missing = [name for name in RECORDS if not (files / name).is_file()]
    if missing:
        raise PublishedError(
            f"{text} has no {' or '.join(missing)}, so Burnish did not publish it and nothing is proven: to "
            f"serve it unchecked, download the file (hf download {reference.repo} FILE.gguf) and pass its path as MODEL"
        )
    run = Run(files, within=files.parent.parent)  # the hub's cache links snapshots to files in a sibling directory
    train, export = read_both(run)
    if file_sha256(files / "train.json") != export.train_sha256:
        raise PublishedError(f"{text}: train.json was altered: it does not match the hash in export.json")
    return Published(reference, files, train, export)


def fetch_artifact(published: Published, artifact: Artifact) -> Path:
    """Download a GGUF file at the records' commit; return its path in the cache. Its sha256 is checked on loading."""
    name = published_name(artifact.path)
    say(f"hub: {published.reference.repo}, commit {published.commit[:12]}: {name}, {artifact.bytes / 1e6:,.0f} MB")
    # the download interprets names as patterns
    directory = _download(published.reference, published.commit, [escape(name)])
    path = Run(directory, within=directory.parent.parent).inside(name)
    if not path.is_file():
        raise PublishedError(
            f"hf://{published.reference.repo}: {name} was not published; choose another file with --artifact"
        )
    return path


def _download(reference: Reference, revision: str | None, names: tuple[str, ...] | list[str]) -> Path:
    try:
        return hub.download(reference.repo, revision, names)
    except Exception as error:
        reason = hub.reason(error, reference.repo, reference.revision)
        raise PublishedError(f"hf://{reference.repo}: {reason}") from None
