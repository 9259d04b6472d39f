"""What makes one build of llama.cpp another: version, flags, CPU, compilers, the environment, included files."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# forces amx_tile_config.h into ggml's files: without it GCC 12's build ends by SIGILL on CPUs with AMX
AMX = ROOT / "deploy" / "amx.cmake"
AMX_FLAGS = (f"-DCMAKE_PROJECT_ggml_INCLUDE={AMX}",)
INCLUDED = (AMX, AMX.with_name("amx_tile_config.h"))
# what CMake and compilers read from the environment
VARIABLES = (
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX", "CMAKE_ARGS",
    "CMAKE_GENERATOR", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE",
)  # fmt: skip


def cpu_features() -> str:
    """Return this CPU's feature flags: a native build runs only where they are the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return "unknown"
    return next(
        (" ".join(sorted(line.split(":", 1)[1].split())) for line in lines if line.startswith("flags")), "unknown"
    )


def build_key(version: str, cmake_flags: Sequence[str], native: bool) -> str:
    """Return 16 hex digits that are the same for the same build, wherever this copy of the project lies."""
    flags = [flag for flag in cmake_flags if flag not in AMX_FLAGS]  # its path says nothing, its content is below
    parts = [version, *flags, cpu_features() if native else "portable", sys.platform, platform.machine()]
    parts += [*compilers(cmake_flags), *(f"{name}={os.environ.get(name, '')}" for name in VARIABLES)]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*INCLUDED, *named_files())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def words() -> list[str]:
    """Return the words of CMAKE_ARGS, as scikit-build-core splits them."""
    return shlex.split(os.environ.get("CMAKE_ARGS", ""))


def named_files() -> list[Path]:
    """Return the files that CMAKE_ARGS names: what is in them is part of the build."""
    paths = [Path(word.partition("=")[2]) for word in words() if "=" in word]
    return [path for path in paths if str(path) != "." and path.is_file() and path.stat().st_size < 1 << 20]


def compilers(cmake_flags: Sequence[str]) -> list[str]:
    """Return the first line of --version of every compiler that CMake will take."""
    asked = dict(re.findall(r"-DCMAKE_(C|CXX|CUDA)_COMPILER(?::\w+)?=(.+)", "\n".join([*words(), *cmake_flags])))
    found = {"C": asked.get("C") or os.environ.get("CC") or "cc"}
    found["CXX"] = asked.get("CXX") or os.environ.get("CXX") or "c++"
    if "-DGGML_CUDA=ON" in cmake_flags:
        found["CUDA"] = asked.get("CUDA") or os.environ.get("CUDACXX") or "nvcc"
    return [f"{language}: {_version(command)}" for language, command in found.items()]


def _version(command: str) -> str:
    try:
        done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    # nvcc's release is in its last lines, the others' in their first
    return done.stdout.strip()[:2000]
