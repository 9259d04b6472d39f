"""Find the parts of a dataset by a pattern such as `data/*.jsonl`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ...console import listed
from ..faults import DataError
from ..reading.part import Part
from .directory import MAX_NAMES_SHOWN, check_parts, is_data

MOST_FILES = 100_000


def is_pattern(name: str) -> bool:
    """Return whether a name has wildcards: * ? or [...]."""
    return glob.has_magic(name)


def find_matches(pattern: str, notes: list[str]) -> list[Part]:
    """Return the data files that match a pattern, sorted by name; `**` also matches directories.

    Raises DataError if there are none, or if they are not parts of one dataset.
    """
    matched = list(islice(glob.iglob(pattern, recursive=True), MOST_FILES + 1))
    if len(matched) > MOST_FILES:
        raise DataError(f"{pattern} matches more than {MOST_FILES:,} files")
    files = sorted({Path(name) for name in matched if os.path.isfile(name)})
    found = [path for path in files if is_data(path.name)]
    others = [str(path) for path in files if not is_data(path.name)]
    if not found:
        there = f"found: {listed(others, MAX_NAMES_SHOWN)}" if others else "found: nothing"
        raise DataError(f"{pattern}: no such file, and no data files match it as a pattern ({there})")
    check_parts(pattern, [path.name for path in found])
    if others:
        notes.append(f"not read: {listed(others, MAX_NAMES_SHOWN)}")
    once = without_links(found, notes)
    common = os.path.commonpath([path.parent for path in once])
    return [Part(path, place=os.path.relpath(path, common or ".")) for path in once]


def without_links(paths: Sequence[Path], notes: list[str]) -> list[Path]:
    """Return the files except links to other files in the list, which are added to `notes`."""
    real: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        first = real.setdefault(os.path.realpath(path), path)
        if first is not path:
            notes.append(f"{path.name} is a link to {first.name}: read once")
    kept = set(real.values())
    return [path for path in paths if path in kept]
