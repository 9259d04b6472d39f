"""Publish a run to the Hub in one commit: passing artifacts, records and a model card."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from burnish import hub
from burnish import run as runs
from burnish.console import cell, counted, say, warn
from burnish.files import file_sha256, read_lines
from burnish.private.huggingface_hub import git_id, set_sha256
from burnish.publish import WRITE, PushSection, check_target
from burnish.records import PushRecord
from burnish.versions import versions

from .contents import SUMS, Item, PushError
from .publication import Publication

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRIES = 3
LARGEST_REGULAR_BYTES = 20_000_000  # the Hub stores larger files as LFS (from 10 MB)


@dataclass(frozen=True)
class Remote:
    """A repository's newest commit; `files` maps paths to the sha256 of LFS files or the git id of others."""

    commit: str
    files: dict[str, str]


def publish(s: Publication, push: PushSection, items: list[Item]) -> PushRecord:
    """Upload the missing files in one commit, and write push.json.

    After an interruption, only files that the Hub has not received are uploaded; without changes, nothing is uploaded.
    """
    api = hub.client()
    say(f"push: '{check_target(api, push)}' publishes run '{s.run.id}' to {s.repo}")
    _warn(s)
    try:
        commit = hub.retrying(lambda: _upload(api, s, items), TRIES)
    except Exception as error:
        raise PushError(f"push.repo {s.repo}: {hub.reason(error, s.repo, right=WRITE)}") from None
    record = PushRecord(
        run_id=s.run.id,
        created=runs.now(),
        train_sha256=file_sha256(s.run.path / "train.json"),
        export_sha256=file_sha256(s.run.path / "export.json") if s.export else None,
        repo=s.repo,
        commit=commit,
        files=sorted(item.name for item in items),
        public=push.public,
        versions=versions(("huggingface_hub",)),
    )
    s.run.write(record)
    return record


def show(s: Publication, push: PushSection, items: list[Item]) -> None:
    """Print the files that would be published, with their sizes."""
    made = Table(
        title=cell(f"{s.repo} ({'public' if push.public else 'private'}): what would be published"),
        title_justify="left",
    )
    made.add_column("file", overflow="fold")
    made.add_column("size", justify="right")
    made.add_column("sha256")
    for item in items:
        made.add_row(cell(item.name), _bytes(item.size), item.sha256[:12])
    made.add_row(counted(len(items), "file"), _bytes(sum(item.size for item in items)), "")
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(made)
    _warn(s)


def _upload(api: HfApi, s: Publication, items: list[Item]) -> str:
    """Upload the missing files and return the commit. A retry skips files that are already uploaded."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    remote = _remote(api, s.repo)
    changed = [item for item in items if remote.files.get(item.name) not in (item.sha256, _git_id(item))]
    stale = sorted(_files_of_earlier_push(s.repo, remote) - {item.name for item in items})
    if not changed and not stale:
        say(f"push: {s.repo} is up to date: nothing uploaded")
        return remote.commit
    add = [CommitOperationAdd(item.name, item.source) for item in changed]
    for operation, item in zip(add, changed, strict=True):
        set_sha256(operation, item.sha256)
    say(f"push: uploading {counted(len(changed), 'file')}, {_bytes(sum(item.size for item in changed))}")
    for name in stale:
        say(f"push: {name} is from an earlier push: removed in the same commit")
    api.preupload_lfs_files(s.repo, add)  # in parallel, with a progress bar per file
    done = api.create_commit(
        s.repo,
        [*add, *(CommitOperationDelete(name) for name in stale)],
        commit_message=f"Publish run {s.run.id}",
        parent_commit=remote.commit,
    )
    return str(done.oid)


def _remote(api: HfApi, repo: str) -> Remote:
    from huggingface_hub.hf_api import RepoFile

    commit = str(api.model_info(repo).sha)
    found = [
        entry for entry in api.list_repo_tree(repo, recursive=True, revision=commit) if isinstance(entry, RepoFile)
    ]
    return Remote(commit, {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in found})


def _files_of_earlier_push(repo: str, remote: Remote) -> set[str]:
    """Return the repository's files from an earlier push, excluding files added by hand."""
    if SUMS not in remote.files:
        return set()
    lines = read_lines(hub.download(repo, remote.commit, [SUMS]) / SUMS)
    return {line.partition("  ")[2] for line in lines} & set(remote.files)


def _git_id(item: Item) -> str:
    """Return a small file's git id; large files are stored as LFS and compared by sha256."""
    if isinstance(item.source, bytes):
        return git_id(item.source)
    return git_id(item.source.read_bytes()) if item.size <= LARGEST_REGULAR_BYTES else ""


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _warn(s: Publication) -> None:
    """Warn about loosened thresholds and local paths in the records."""
    if s.loosened:
        warn(f"the published artifacts were {s.loosened}; the card says so")
    _warn_of_paths(s)


def _warn_of_paths(s: Publication) -> None:
    """Warn about local paths in the records, which are published unchanged so that their hashes stay valid."""
    sections = s.run.settings()
    named = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    for key, value in {**named, "base.id": s.train.base.id, "data.path": s.train.data.path}.items():
        if isinstance(value, str) and value.startswith(("/", "~")):
            warn(f"the records contain a local path and are published unchanged: {key} {value}")
