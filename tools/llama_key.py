"""The cache key of a llama.cpp build: version, flags, CPU, compilers, environment and included files."""

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
# includes amx_tile_config.h in ggml's files: without it, GCC 12's build crashes with SIGILL on CPUs with AMX
AMX = ROOT / "deploy" / "amx.cmake"
AMX_FLAGS = (f"-DCMAKE_PROJECT_ggml_INCLUDE={AMX}",)
INCLUDED = (AMX, AMX.with_name("amx_tile_config.h"))
# environment variables read by CMake and the compilers
VARIABLES = (
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "CUDAHOSTCXX", "CMAKE_ARGS",
    "CMAKE_GENERATOR", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE",
)  # fmt: skip


def cpu_features() -> str:
    """Return this CPU's feature flags; a native build is only valid for the same flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return "unknown"
    return next(
        (" ".join(sorted(line.split(":", 1)[1].split())) for line in lines if line.startswith("flags")), "unknown"
    )


def build_key(version: str, cmake_flags: Sequence[str], native: bool) -> str:
    """Return 16 hex digits that identify a build, independent of the project's directory."""
    flags = [flag for flag in cmake_flags if flag not in AMX_FLAGS]  # contains a path; the file is hashed below
    parts = [version, *flags, cpu_features() if native else "portable", sys.platform, platform.machine()]
    parts += [*compilers(cmake_flags), *(f"{name}={os.environ.get(name, '')}" for name in VARIABLES)]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*INCLUDED, *named_files())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def words() -> list[str]:
    """Return the arguments in CMAKE_ARGS, split as scikit-build-core does."""
    return shlex.split(os.environ.get("CMAKE_ARGS", ""))


def named_files() -> list[Path]:
    """Return the files named in CMAKE_ARGS, whose content is part of the build."""
    paths = [Path(word.partition("=")[2]) for word in words() if "=" in word]
    return [path for path in paths if str(path) != "." and path.is_file() and path.stat().st_size < 1 << 20]


def compilers(cmake_flags: Sequence[str]) -> list[str]:
    """Return the --version output of every compiler that CMake will use."""
    compilers = dict(re.findall(r"-DCMAKE_(C|CXX|CUDA)_COMPILER(?::\w+)?=(.+)", "\n".join([*words(), *cmake_flags])))
    found = {"C": compilers.get("C") or os.environ.get("CC") or "cc"}
    found["CXX"] = compilers.get("CXX") or os.environ.get("CXX") or "c++"
    if "-DGGML_CUDA=ON" in cmake_flags:
        found["CUDA"] = compilers.get("CUDA") or os.environ.get("CUDACXX") or "nvcc"
    return [f"{language}: {_version(command)}" for language, command in found.items()]


def _version(command: str) -> str:
    try:
        done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    # nvcc prints its release in the last lines, other compilers in the first
    return done.stdout.strip()[:2000]
