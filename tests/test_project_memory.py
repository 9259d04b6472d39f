"""Running out of memory is one line and exit code 2, even during imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from burnish.errors import lack_of_memory
from tests.support.commands import ROOT, own_environment

QUICKSTART = ("--config", "configs/quickstart.yaml")


@pytest.mark.parametrize(
    ("stage", "mib"),
    [("serve", 29), ("export", 29), ("train", 29), ("export", 200), ("export", 400), ("train", 400), ("train", 800)],
)
def test_small_address_space_limit_is_reported(stage: str, mib: int, tmp_path: Path) -> None:
    words = {
        "serve": ("--model", str(tmp_path / "x.gguf")),
        "export": ("examine", "x", "--run.root", str(tmp_path)),
        "train": ("plan", *QUICKSTART, "--run.root", str(tmp_path)),
    }[stage]
    command = ["bash", "-c", f'ulimit -v {mib << 10}; exec "$@"', "bash", sys.executable, "-m", stage, *words]
    done = subprocess.run(command, cwd=ROOT, env=own_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    faults = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(faults) == 1 and f"raise the address-space limit of {mib} MiB (ulimit -v)" in faults[0]


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'gguf'"),
        ImportError("libcudart.so.12: cannot open shared object file: No such file or directory"),
        ImportError("/lib/libgomp.so.1: cannot allocate memory in static TLS block"),
    ],
)
def test_missing_library_is_not_reported_as_out_of_memory(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (1 << 30, 1 << 30))
    assert lack_of_memory(error) is None
    assert lack_of_memory(ImportError("failed to map segment from shared object")) is not None
