"""Load and run a model file in a child process before this process does.

llama.cpp validates files largely with assertions, which end the process, and its C++ exceptions can't be caught here.
The child's exit code shows whether a file works; a pass is cached.
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
# the test reads the whole file: the time limit for a small file, and the speed of a slow disk
MIN_TEST_S, TEST_BYTES_PER_S = 60, 50_000_000
ASSERTION = re.compile(r"GGML_ASSERT\(.*\)|(?<=what\(\):)\s+.*")


def check(path: Path) -> None:
    """Test a file that has no recorded pass. Raises LlamaError if loading or running it fails."""
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
    """Return the cache path for the outcome with this file, llama.cpp build and CPU, without reading the file."""
    files = [path.resolve(), *library_files()]
    parts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    parts += [str(TEST_VERSION), amx, " ".join(sorted(cpu_flags()))]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return cache_root() / "llama" / "load-tests" / f"{name}.json"


def recorded(note: Path) -> str | None:
    """Return the recorded error, "" if the file passed, or None if it was not tested."""
    try:
        return str(json.loads(note.read_text())["fault"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(note: Path, path: Path, fault: str) -> None:
    """Cache an outcome, if the cache is writable."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps({"file": path.name, "fault": fault}))
    except OSError:  # in a read-only container every start repeats the test
        pass


def run(path: Path, amx: str) -> tuple[str, bool]:
    """Return what failed, or "", and whether the failure is permanent: running out of memory or time is not."""
    limits = children.Limits.of(path.stat().st_size, 0)
    limit_s = MIN_TEST_S + path.stat().st_size / TEST_BYTES_PER_S
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
        return "the load test computed logits that are not finite", True
    return "", True
