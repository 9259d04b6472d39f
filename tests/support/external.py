"""What needs a package set of its own: requirements/external-<name>.json for npm's, .txt for Python's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.external import INSTALLED, home


def installed(name: str) -> Path:
    """Return the directory where a set is installed; skips the test where it is not, with the reason."""
    directory = home(name)
    if not (directory / INSTALLED).is_file():
        reason = directory / "reason"
        why = reason.read_text().strip() if reason.is_file() else f"`make test-external ONLY={name}` installs it"
        pytest.skip(f"the external set '{name}' is not installed: {why}")
    return directory
