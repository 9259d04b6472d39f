"""Restrict imports to the standard library, installed packages and the project's packages.

`python -m train` puts the project root on the path, and so everything next to the packages: another person's run,
data, a stray json.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = frozenset({"burnish", "train", "export", "serve"})
ROOT = Path(__file__).resolve().parents[2]


class ProjectFinder:
    """Finds the project's packages in the project root, but nothing else there."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec for a project package (importlib.abc.MetaPathFinder)."""
        return PathFinder.find_spec(name, [str(ROOT)], target) if path is None and name in PACKAGES else None


def only_packages() -> None:
    """Remove the working directory and the project root from the path; the project's packages remain importable."""
    if ProjectFinder not in sys.meta_path:
        sys.meta_path.insert(0, ProjectFinder)
    closed = {ROOT}
    if not sys.flags.safe_path:  # `python -m` put the working directory first
        with suppress(OSError):
            closed.add(Path.cwd())
    sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry) and Path(entry).resolve() not in closed]
