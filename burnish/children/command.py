"""Command lines and environment variables of child processes.

Code that reads a stranger's files (the dequantizer, llama.cpp's converter and quantizer, load tests) runs `confined`:
with limits, without tokens, and without network access if the system allows that. confined.py is the child's side.
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
# the variables that a confined child inherits: no others, so that it gets no key or token
PASSED = frozenset({
    "PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TERM", "COLUMNS", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "XDG_CACHE_HOME", "BURNISH_CACHE", "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_VERBOSITY",
    "TOKENIZERS_PARALLELISM", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTHONPYCACHEPREFIX",
})  # fmt: skip
PASSED_PREFIXES = (
    "LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GGML_", "LLAMA_", "CUDA_", "NVIDIA_", "PYTORCH_",
)  # fmt: skip
GPUS = tuple(map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl")))  # also under WSL, and on Jetson
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Resource limits of a confined child; 0 means no limit.

    `cpu_s` is the processor time of all threads, `file_bytes` the largest file it may write, `memory_bytes` its
    address space.
    """

    cpu_s: int = 0
    file_bytes: int = 0
    memory_bytes: int = 0

    @classmethod
    def of(cls, input_bytes: int, output_bytes: int) -> Limits:
        """Return limits for reading and writing that much on a slow machine, which only a fault would exceed.

        Memory is limited to the machine's own, the mapped file and room for libraries, so that an invented size in a
        file fails at once. A CUDA build reserves far more addresses than it uses, so there memory is not limited.
        """
        memory = 0 if any(map(Path.exists, GPUS)) else memory_limit_bytes() + 2 * input_bytes + 16 * GIB
        return cls(3600 + (input_bytes + output_bytes) // 100_000, GIB + output_bytes, memory)


def module(name: str, *words: str) -> list[str]:
    """Return the command that runs a module of the project; its environment must include `search_path`."""
    return [sys.executable, "-P", "-m", name, *words]


def confined(limits: Limits, name: str, *words: str) -> list[str]:
    """Return the command that runs a module of the project with limits, for use with `environment`."""
    numbers = map(str, (limits.cpu_s, limits.file_bytes, limits.memory_bytes))
    return module(CONFINED, *numbers, name, *words)


def search_path(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make the project importable, but not the working directory."""
    # empty and relative entries of PYTHONPATH refer to the working directory
    given = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *(e for e in given if e != str(ROOT))])}


def environment(**more: str) -> dict[str, str]:
    """Return a confined child's environment: few of this process's variables, no token, the Hub's client offline.

    HF_MODULES_CACHE is where transformers copies a model's Python code before importing it; it is set to fail.
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
    """Return whether confined children can reach a network: there is one, and the system does not let them leave it."""
    with suppress(OSError):
        lines = Path("/proc/net/dev").read_text().strip().split("\n")[2:]
        if {line.partition(":")[0].strip() for line in lines} <= {"lo"}:
            return False
    check = subprocess.run(module(CONFINED, "check"), env=environment(), capture_output=True, stdin=subprocess.DEVNULL)
    return check.returncode != 0
