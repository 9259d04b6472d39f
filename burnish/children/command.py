"""The command lines and variables of child processes.

What reads a stranger's files (the dequantizer, llama.cpp's converter, its quantizer, a load test) runs `confined`:
with limits, without a token, and without a network where the system allows that. See confined.py for the other side.
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
# what a confined child is told of this process's variables: nothing else, so that no key or token is among them
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
    """What a confined child may use; 0 is no limit.

    `cpu_s` counts the seconds of all its threads, `file_bytes` is the largest file that it may write, `memory_bytes`
    its address space.
    """

    cpu_s: int = 0
    file_bytes: int = 0
    memory_bytes: int = 0

    @classmethod
    def of(cls, input_bytes: int, output_bytes: int) -> Limits:
        """Return what reading and writing that much may take on a slow machine, and what only a fault would exceed.

        Memory is bounded by the machine's own, the mapped file and room for libraries, so that a size that a file
        makes up fails at once. A CUDA build reserves far more addresses than it uses: there it is not bounded.
        """
        memory = 0 if any(map(Path.exists, GPUS)) else memory_limit_bytes() + 2 * input_bytes + 16 * GIB
        return cls(3600 + (input_bytes + output_bytes) // 100_000, GIB + output_bytes, memory)


def module(name: str, *words: str) -> list[str]:
    """Return the command that runs a module of the project; `search_path` must be in its variables."""
    return [sys.executable, "-P", "-m", name, *words]


def confined(limits: Limits, name: str, *words: str) -> list[str]:
    """Return the command that runs a module of the project under limits; `environment` gives its variables."""
    numbers = map(str, (limits.cpu_s, limits.file_bytes, limits.memory_bytes))
    return module(CONFINED, *numbers, name, *words)


def search_path(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make the project importable, and never the working directory."""
    # an empty entry of PYTHONPATH, and a relative one, mean the working directory
    given = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *(e for e in given if e != str(ROOT))])}


def environment(**more: str) -> dict[str, str]:
    """Return a confined child's variables: few of this process's own, no token, the Hub's client offline.

    HF_MODULES_CACHE is where transformers copies a model's Python code to before it imports it: here nothing can be.
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
    """Whether confined children can reach a network: there is one, and the system does not let them give it up."""
    with suppress(OSError):
        lines = Path("/proc/net/dev").read_text().strip().split("\n")[2:]
        if {line.partition(":")[0].strip() for line in lines} <= {"lo"}:
            return False
    check = subprocess.run(module(CONFINED, "check"), env=environment(), capture_output=True, stdin=subprocess.DEVNULL)
    return check.returncode != 0
