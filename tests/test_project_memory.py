"""A lack of memory is one line and exit code 2, also while libraries are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, own_environment

QUICKSTART = ("--config", "configs/quickstart.yaml")


@pytest.mark.parametrize(
    ("stage", "mib"),
    [("serve", 29), ("export", 29), ("train", 29), ("export", 200), ("export", 400), ("train", 400), ("train", 800)],
)
def test_a_small_limit_of_addresses_is_named(stage: str, mib: int, tmp_path: Path) -> None:
    words = {
        "serve": ("--model", str(tmp_path / "x.gguf")),
        "export": ("examine", "x", "--run.root", str(tmp_path)),
        "train": ("plan", *QUICKSTART, "--run.root", str(tmp_path)),
    }[stage]
    command = ["bash", "-c", f'ulimit -v {mib << 10}; exec "$@"', "bash", sys.executable, "-m", stage, *words]
    done = subprocess.run(command, cwd=ROOT, env=own_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    faults = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(faults) == 1 and f"raise the limit of {mib} MiB of addresses (ulimit -v)" in faults[0]
