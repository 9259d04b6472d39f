"""Delete unneeded files of runs, after confirmation. A run in use by another process is never touched."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from burnish import lock
from burnish.console import counted, printable, say, warn
from burnish.errors import UserError
from burnish.overview.summary import Summary, size_of
from burnish.run import Run

from .table import size

# parts of a finished run that only continuing its training or repeating a command uses
PARTS = {
    "checkpoints": "only needed to train further",
    ".evaluate": "answers of evaluations, needed to score them again",
}


class PruneError(UserError):
    """Raised when confirmation is impossible, or a run is in use."""


@dataclass(frozen=True)
class Candidate:
    """A deletion candidate: a whole run, or a part of it."""

    run: Run
    path: Path
    why: str
    bytes: int


def candidates(runs: Sequence[Summary], whole: bool) -> list[Candidate]:
    """Return the deletion candidates: with `whole` entire runs, otherwise parts of finished runs.

    Runs in use are skipped, with a warning.
    """
    found = []
    for one in runs:
        if one.locked:
            warn(f"run '{one.run.id}' is in use: skipped")
        elif one.run.path.is_symlink():
            warn(f"run '{one.run.id}' is a link: skipped")
        elif whole and _is_used(one.run):
            warn(f"run '{one.run.id}' is in use by a server or another command: skipped")
        elif whole:
            found.append(Candidate(one.run, one.run.path, f"the whole run, {one.state}", one.size))
        elif one.finished:
            paths = {one.run.path / name: why for name, why in PARTS.items()}
            found += [
                Candidate(one.run, path, why, size_of(path))
                for path, why in paths.items()
                if path.is_dir() and not path.is_symlink()
            ]
    return [one for one in found if one.bytes or one.path == one.run.path]


def _is_used(run: Run) -> bool:
    try:
        with lock.unused(run.path):
            return False
    except UserError:
        return True


def prune(found: Sequence[Candidate], yes: bool) -> int:
    """Show the candidates, ask for confirmation, and delete them. Raises PruneError without a terminal."""
    if not found:
        print("nothing to prune")
        return 0
    for one in found:
        print(printable(f"{size(one.bytes):>12}  {one.path}  ({one.why})", one_line=True))
    total = size(sum(one.bytes for one in found))
    if not yes and not _confirmed(f"Delete {counted(len(found), 'item')}, {total}? [y/N] "):
        print("nothing was deleted")
        return 0
    freed = sum(_delete(one) for one in found)
    say(f"prune: {size(freed)} freed")
    return 0


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise PruneError("can't ask for confirmation without a terminal: YES=1 deletes the entries above")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _delete(one: Candidate) -> int:
    """Delete one candidate while holding its run's lock; return the bytes freed, 0 if the run is now in use."""
    try:
        whole = one.path == one.run.path
        with lock.hold(one.run.path, "pruning"), lock.unused(one.run.path) if whole else nullcontext():
            shutil.rmtree(one.path)
    except UserError as error:
        warn(f"{error}: skipped")
        return 0
    except OSError as error:
        warn(f"{error.filename} can't be deleted: {error.strerror}")
        return 0
    latest = one.run.path.parent / "latest"
    if latest.is_symlink() and not latest.exists():
        with suppress(OSError):
            os.unlink(latest)
    return one.bytes
