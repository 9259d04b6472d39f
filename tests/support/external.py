"""External package sets: requirements/external-<name>.json for npm, .txt for Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.external import INSTALLED, home


def installed(name: str) -> Path:
    """Return the directory of an installed set; skip the test with the reason if it is not installed."""
    directory = home(name)
    if not (directory / INSTALLED).is_file():
        reason = directory / "reason"
        why = reason.read_text().strip() if reason.is_file() else f"run `make test-external ONLY={name}`"
        pytest.skip(f"the external set '{name}' is not installed: {why}")
    return directory
