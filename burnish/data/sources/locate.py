"""Find the parts of a dataset from its name: a file, directory, pattern, archive, URL, or dataset on the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..faults import DataError
from ..reading.part import Part
from .archive import find_members, is_archive
from .directory import find_parts
from .hub import PREFIX, find_on_hub
from .pattern import find_matches, is_pattern, without_links
from .web import URL, fetch

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
FILE = "a file"


@dataclass(frozen=True)
class Located:
    """A dataset's parts, in order. `kind` describes it; with `several`, rows name their part.

    `notes` list what was not read. `origin` identifies the downloaded version, such as a commit on the Hub.
    """

    title: str
    parts: tuple[Part, ...]
    kind: str = FILE
    notes: tuple[str, ...] = ()
    origin: str | None = None

    @property
    def several(self) -> bool:
        return self.kind != FILE


def is_remote(name: str) -> bool:
    """Return whether a dataset is on the Hub or the web."""
    return bool(SCHEME.match(name))


def locate(name: str) -> Located:
    """Find the parts of a dataset, fetching them if they are elsewhere. Raises DataError if there are none."""
    if name.startswith(PREFIX):
        found = find_on_hub(name)
        return Located(name, found.parts, "a dataset on the Hub", found.notes, found.commit)
    if URL.match(name):
        fetched = fetch(name)
        return _file(fetched.path, fetched.url, fetched.url, f"sha256:{fetched.sha256}")
    if is_remote(name):
        scheme = name.partition("://")[0]
        raise DataError(f"{name}: {scheme}:// is not supported: download it first, or use https:// or hf://datasets/")
    path = Path(name)
    notes: list[str] = []
    if path.is_dir():
        parts = tuple(Part(part) for part in without_links(find_parts(path, notes), notes))
        return Located(name, parts, "a directory", tuple(notes))
    if is_pattern(name) and not os.path.lexists(name):
        return Located(name, tuple(find_matches(name, notes)), "a pattern", tuple(notes))
    return _file(path, "", name, None)


def _file(path: Path, label: str, title: str, origin: str | None) -> Located:
    notes: list[str] = []
    if is_archive(path):
        return Located(title, tuple(find_members(path, label, notes)), "a zip archive", tuple(notes), origin)
    return Located(title, (Part(path, label=label),), FILE, (), origin)
