"""The two models to compare: a run's file, and its untuned base in the same quantization."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish import children
from burnish.console import say
from burnish.errors import UserError
from burnish.evaluations.base_gguf import base_gguf
from burnish.files import file_sha256
from burnish.records import TrainRecord
from burnish.run import Run

from ..artifact import Chosen
from .settings import EvaluateSettings

AUTO, NONE = "auto", "none"


class BaseError(UserError):
    """Raised when the base's GGUF can't be created or read."""


def base_of(run: Run, tuned: Chosen, settings: EvaluateSettings) -> Chosen | None:
    """Return the base with the run's template, date, variables and end tokens; None if disabled.

    A missing GGUF is created by a child process of the export stage. Raises BaseError.
    """
    if settings.base == NONE:
        return None
    if settings.base == AUTO:
        quantization = str(tuned.record["artifact"]["quantization"])
        trained = run.read(TrainRecord)
        path = base_gguf(run, trained.adapter.path, trained.base.sha256, quantization)
        if not path.is_file():
            _make(run, quantization)
    else:
        path = Path(settings.base)
    if not path.is_file():
        raise BaseError(f"base {path}: no such file")
    artifact: dict[str, Any] = {**tuned.record["artifact"], "sha256": file_sha256(path)}
    record = {**tuned.record, "artifact": artifact}
    # a file of the user's is checked before it is loaded, and has a template of its own
    found = replace(tuned, path=path, name=f"{tuned.name}-base", record=record, recorded=settings.base == AUTO)
    return replace(found, remedy="remove it to create it again")


def _make(run: Run, quantization: str) -> None:
    say(f"evaluate: the base's {quantization} GGUF is created once, in the cache")
    words = ("base", "--run.root", str(run.path.parent), "--run.name", run.id, "--gguf.quants", quantization)
    environment = {**os.environ, **children.search_path(os.environ)}
    done = subprocess.run(
        children.module("export", *words), cwd=children.ROOT, env=environment, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise BaseError(
            f"the base's {quantization} GGUF can't be created (python -m export base: exit code"
            f" {done.returncode}): see above; --base FILE.gguf compares with a file, --base none with nothing"
        )
