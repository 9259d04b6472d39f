"""Load a model file and compute with it in a child process, before this process does.

llama.cpp checks much of a file with assertions, which end the process, and an exception of its C++ code can't be caught
here. What a file does to the child is known by how that ends; that a file passed is kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

from .. import children
from ..files import atomic_file, cache_root, last_line
from ..machine import cpu_flags
from ..process import crashed, signal_name
from .runtime import LlamaError, library_files

TEST_VERSION = 2
# the test reads the whole file: a slow disk's speed, and what a small file needs
LEAST_TEST_S, TEST_BYTES_PER_S = 60, 50_000_000
ASSERTION = re.compile(r"GGML_ASSERT\(.*\)|(?<=what\(\):)\s+.*")


def check(path: Path) -> None:
    """Raise LlamaError where a file that nothing is recorded of does not load, or does not compute."""
    if not path.is_file():
        raise LlamaError(f"{path}: the model can't be read: {'it is not a file' if path.exists() else 'no such file'}")
    note = note_of(path, "off")
    if recorded(note) == "":
        return
    fault, _ = run(path, "off")
    if fault:
        raise LlamaError(fault if fault.startswith(str(path)) else f"{path}: {fault}; fetch or convert the file again")
    record(note, path, "")


def note_of(path: Path, amx: str) -> Path:
    """Return where the outcome is kept for this file, this build of llama.cpp and this CPU; the file is not read."""
    files = [path.resolve(), *library_files()]
    parts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    parts += [str(TEST_VERSION), amx, " ".join(sorted(cpu_flags()))]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return cache_root() / "llama" / "load-tests" / f"{name}.json"


def recorded(note: Path) -> str | None:
    """Return the fault that is recorded, "" where the file passed, None where it was not tested."""
    try:
        return str(json.loads(note.read_text())["fault"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(note: Path, path: Path, fault: str) -> None:
    """Keep an outcome, where the cache can be written."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps({"file": path.name, "fault": fault}))
    except OSError:  # a read-only container: tested again at the next start
        pass


def run(path: Path, amx: str) -> tuple[str, bool]:
    """Return what failed, and whether it will again: a lack of memory or time may not."""
    limits = children.Limits.of(path.stat().st_size, 0)
    limit_s = LEAST_TEST_S + path.stat().st_size / TEST_BYTES_PER_S
    try:
        done = subprocess.run(
            children.confined(limits, "burnish.llama", "load-test", "--amx", amx, str(path.resolve())),
            cwd=children.ROOT,
            env=children.environment(CUDA_VISIBLE_DEVICES=""),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return f"the load test took more than {limit_s:.0f} s", False
    if crashed(done.returncode):
        name = signal_name(done.returncode)
        failed = next((found[0].strip() for found in ASSERTION.finditer(done.stderr)), "")
        return f"the load test ended by {name}{f': {failed}' if failed else ''}", name != "SIGKILL"
    if done.returncode:
        return f"the load test failed: {last_line(done.stderr, 'no output').removeprefix('error: ')}", True
    if not json.loads(last_line(done.stdout))["finite"]:
        return "the load test gave numbers that are not finite", True
    return "", True
