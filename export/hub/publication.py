"""A publication: a run's records, the artifacts to publish, and the repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.bases.base import PACKAGE_PREFIX
from burnish.evaluations.record import Evaluation
from burnish.exam.thresholds import qualified
from burnish.records import Artifact, ExportRecord, TrainRecord
from burnish.run import Run

PLACEHOLDER = "owner/name"


@dataclass(frozen=True)
class Publication:
    """A run to publish: its records, the repository, the artifacts, and whether to publish the adapter.

    `evaluations` are those of this export.

    `export` is None if only the adapter is published and the run was not exported after training.
    """

    run: Run
    train: TrainRecord
    export: ExportRecord | None
    repo: str
    artifacts: tuple[Artifact, ...]
    adapter: bool
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def ggufs(self) -> list[Artifact]:
        return [a for a in self.artifacts if a.kind == "gguf"]

    @property
    def merged(self) -> Artifact | None:
        return next((a for a in self.artifacts if a.kind == "safetensors"), None)

    @property
    def records(self) -> tuple[str, ...]:
        """The records and settings to publish."""
        return ("train.json", *(("export.json",) if self.export else ()), "config.yaml")

    @property
    def examined(self) -> Sequence[Artifact]:
        """Every examined artifact, published or not."""
        return self.export.artefacts if self.export else ()

    @property
    def default(self) -> str | None:
        return self.export.default if self.export else None

    @property
    def stop(self) -> list[str]:
        return self.export.stop if self.export else self.train.terminators

    @property
    def template_kwargs(self) -> dict[str, Any]:
        return (self.export or self.train).template_kwargs

    @property
    def loosened(self) -> str | None:
        """A note on gate thresholds looser than the defaults; None if there was no export."""
        return qualified(self.export.gate) if self.export else None

    @property
    def base_on_hub(self) -> str | None:
        """The base's Hub id, or None for a local base."""
        return self.train.base.id if self.train.base.revision else None

    @property
    def base_name(self) -> str:
        """The base's public name: only the last component of a local path."""
        base = self.train.base.id
        return base if self.base_on_hub or base.startswith(PACKAGE_PREFIX) else Path(base).name
