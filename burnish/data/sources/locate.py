"""Find the parts of a data set from its name in the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..reading.part import Part
from .directory import find_parts


@dataclass(frozen=True)
class Located:
    """A data set's parts, in order. `kind` says what it is, `several` whether rows name their part.

    `notes` say what was not read.
    """

    title: str
    parts: tuple[Part, ...]
    kind: str = "a file"
    notes: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        return self.kind != "a file"


def locate(name: str) -> Located:
    """Find the parts of a data set: a file or a directory. Raises DataError if there are none."""
    path = Path(name)
    if path.is_dir():
        notes: list[str] = []
        parts = tuple(Part(part) for part in find_parts(path, notes))
        return Located(name, parts, "a directory", tuple(notes))
    return Located(name, (Part(path),))
