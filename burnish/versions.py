"""Versions for records: Burnish and its commit, llama.cpp, and the packages named by a stage.

Package versions come from metadata, without importing the packages.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMIT_VARIABLE = "BURNISH_COMMIT"  # set in images, which lack git
GIT_TIMEOUT_S = 10
# llama.cpp's commit in each source archive ever pinned in requirements/llama.txt, from the archive's git entry for
# vendor/llama.cpp. The library itself knows its commit only if git was available during the build.
LLAMA_COMMITS = {"0.3.36": "0c1e57098bba43ac29e6e3b677cdceebdd22334f"}
COMMIT = re.compile(r"[0-9a-f]{7,64}(-dirty)?")


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return versions by name: burnish, burnish_commit, python and the installed packages.

    `llama_cpp` is llama.cpp's commit, `llama_cpp_python` the source archive's version.
    """
    found = {"burnish": version(), "burnish_commit": commit(), "python": platform.python_version()}
    found |= {name: _installed(name) for name in packages}
    found["llama_cpp_python"] = archive = _installed("llama-cpp-python")
    found["llama_cpp"] = LLAMA_COMMITS.get(archive or "")
    return {name: value for name, value in found.items() if value}


@cache
def version() -> str:
    """Return Burnish's version from pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def line() -> str:
    """Return the output for `--version`: Burnish's version and the commit, if known."""
    return f"burnish {version()}{f' ({commit()})' if commit() else ''}"


@cache
def commit() -> str | None:
    """Return the running commit, with "-dirty" if tracked files were modified; None if unknown.

    Read from git in a clone, else from the variable set in images.
    """
    if (ROOT / ".git").exists() and (head := _git("rev-parse", "HEAD")):
        return head + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    given = os.environ.get(COMMIT_VARIABLE, "")
    return given if COMMIT.fullmatch(given) else None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
