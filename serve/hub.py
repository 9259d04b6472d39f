"""A published run: its records and one artefact, fetched from the Hub into the cache and checked by the records."""

from __future__ import annotations

from dataclasses import dataclass
from glob import escape
from pathlib import Path

from burnish import hub
from burnish.console import say
from burnish.errors import UserError
from burnish.files import file_sha256
from burnish.hub import RECORDS, Reference, published_name
from burnish.records import Artefact, ExportRecord, TrainRecord
from burnish.run import Run, read_both


class PublishedError(UserError):
    """A repository that can't be fetched, or does not hold what its records say."""


@dataclass(frozen=True)
class Published:
    """A published run: its records at one commit. `files` is where its snapshot lies in the cache."""

    reference: Reference
    files: Path
    train: TrainRecord
    export: ExportRecord

    @property
    def commit(self) -> str:
        """The commit that was fetched; the hub's cache names snapshots by it."""
        return self.files.name


def fetch_records(text: str) -> Published:
    """Fetch the records that `hf://owner/name[@revision]` has. Raises PublishedError or HubError in one line."""
    reference = Reference.parse(text)
    files = _download(reference, reference.revision, RECORDS)
    if (files / "train.json").is_file() and not (files / "export.json").is_file():
        raise PublishedError(
            f"{text}: its adapter alone was published, without an export, and serve needs a GGUF: run `make export` and"
            " `make push` where the run is"
        )
    missing = [name for name in RECORDS if not (files / name).is_file()]
    if missing:
        raise PublishedError(
            f"{text}: it has no {' and no '.join(missing)}, so Burnish did not publish it and nothing is proven of it:"
            f" download its .gguf file (hf download {reference.repo} FILE.gguf) and give that path as MODEL"
        )
    run = Run(files, within=files.parent.parent)  # the hub's cache keeps the files beside their snapshots
    train, export = read_both(run)
    if file_sha256(files / "train.json") != export.train_sha256:
        raise PublishedError(f"{text}: train.json is not the one that export.json was made with: it was altered")
    return Published(reference, files, train, export)


def fetch_artefact(published: Published, artefact: Artefact) -> Path:
    """Fetch a GGUF at the records' own commit; returns its path in the cache. Its sha256 is checked at loading."""
    name = published_name(artefact.path)
    say(f"hub: {published.reference.repo}, commit {published.commit[:12]}: {name}, {artefact.bytes / 1e6:,.0f} MB")
    # a file's name is not a pattern
    directory = _download(published.reference, published.commit, [escape(name)])
    path = Run(directory, within=directory.parent.parent).inside(name)
    if not path.is_file():
        raise PublishedError(
            f"hf://{published.reference.repo}: {name} was not published there; give another with --artefact"
        )
    return path


def _download(reference: Reference, revision: str | None, names: tuple[str, ...] | list[str]) -> Path:
    try:
        return hub.download(reference.repo, revision, names)
    except Exception as error:
        reason = hub.reason(error, reference.repo, reference.revision)
        raise PublishedError(f"hf://{reference.repo}: {reason}") from None
