"""Command lines and environment variables for child processes.

Code that reads untrusted files (the dequantizer, llama.cpp's converter and quantizer, load tests) runs `confined`:
with resource limits, without tokens, and without network access where the system allows that. The child's side is
in confined.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..machine import memory_limit_bytes

ROOT = Path(__file__).resolve().parents[2]
CONFINED = "burnish.children.confined"
# the only variables that a confined child inherits, so that it receives no key or token
PASSED = frozenset({
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "COLUMNS", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "XDG_CACHE_HOME", "BURNISH_CACHE", "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_VERBOSITY",
    "TOKENIZERS_PARALLELISM", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTHONPYCACHEPREFIX",
})  # fmt: skip
PASSED_PREFIXES = (
    "LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_", "LLAMA_", "CUDA_", "NVIDIA_", "PYTORCH_",
)  # fmt: skip
GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl")))  # includes WSL and Jetson
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Resource limits for a confined child; 0 means no limit.

    `cpu_s` is CPU time over all threads, `file_bytes` the maximum size of a written file, `memory_bytes` the size of
    the address space.
    """

    cpu_s: int = 0
    file_bytes: int = 0
    memory_bytes: int = 0

    @classmethod
    def of(cls, input_bytes: int, output_bytes: int) -> Limits:
        """Return limits generous enough to read and write this much on a slow machine; only a bug exceeds them.

        Memory is limited to the machine's memory plus the mapped file and room for libraries, so that a bogus size in a
        file fails immediately. With CUDA it is unlimited, since CUDA reserves far more address space than it uses.
        """
        memory = 0 if any(map(Path.exists, GPUS)) else memory_limit_bytes() + 2 * input_bytes + 16 * GIB
        return cls(3600 + (input_bytes + output_bytes) // 100_000, GIB + output_bytes, memory)


def module(name: str, *words: str) -> list[str]:
    """Return the command that runs a project module; its environment must include `search_path`."""
    return [sys.executable, "-P", "-m", name, *words]


def confined(limits: Limits, name: str, *words: str) -> list[str]:
    """Return the command that runs a project module with limits, for use with `environment`."""
    numbers = map(str, (limits.cpu_s, limits.file_bytes, limits.memory_bytes))
    return module(CONFINED, *numbers, name, *words)


def search_path(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make the project importable without the working directory."""
    # empty and relative entries of PYTHONPATH refer to the working directory
    given = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *(e for e in given if e != str(ROOT))])}


def environment(**more: str) -> dict[str, str]:
    """Return a confined child's environment: few of this process's variables, no token, and the Hub client offline.

    transformers copies a model's Python code to HF_MODULES_CACHE before importing it; an unusable path prevents that.
    """
    passed = {k: v for k, v in os.environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}
    offline = {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_TOKEN_PATH": os.devnull, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_MODULES_CACHE": f"{os.devnull}/none",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }  # fmt: skip
    return {**passed, **search_path(os.environ), **offline, **more}


@cache
def reaches_network() -> bool:
    """Return whether confined children can reach a network: one exists, and the system forbids new namespaces."""
    with suppress(OSError):
        lines = Path("/proc/net/dev").read_text().strip().split("\n")[2:]
        if {line.partition(":")[0].strip() for line in lines} <= {"lo"}:
            return False
    check = subprocess.run(module(CONFINED, "check"), env=environment(), capture_output=True, stdin=subprocess.DEVNULL)
    return check.returncode != 0
