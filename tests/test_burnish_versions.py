"""Recorded versions are those in use, in a clone and in an image, read without imports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.versions import LLAMA_COMMITS, version
from tests.support.commands import ROOT, Cli

PROGRAM = """
import json, sys
from burnish.versions import versions
print(json.dumps([versions(("torch", "never-published-package")), sorted({"torch", "llama_cpp"} & set(sys.modules))]))
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The sources as in an image, without git."""
    (tmp_path / "burnish").mkdir()
    for name in ("pyproject.toml", "burnish/__init__.py", "burnish/versions.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def versions(root: Path, **environment: str) -> dict[str, str]:
    import json

    # `make test` makes the project's packages importable, but this test needs the copies
    clean = {k: v for k, v in os.environ.items() if k != "BURNISH_COMMIT"} | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env={**clean, **environment}, capture_output=True,
                          text=True, check=True)  # fmt: skip
    found, imported = json.loads(done.stdout)
    assert imported == []
    return dict(found)


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=root, capture_output=True, text=True, check=True).stdout


def test_image_reports_the_commit_it_was_built_from(sources: Path) -> None:
    assert versions(sources, BURNISH_COMMIT="c0ffee1234")["burnish_commit"] == "c0ffee1234"
    assert "burnish_commit" not in versions(sources)
    assert "burnish_commit" not in versions(sources, BURNISH_COMMIT="not a commit")


def test_clone_reports_its_commit_and_local_changes(sources: Path) -> None:
    git(sources, "init", "-q")
    git(sources, "add", ".")
    git(sources, "commit", "-qm", "x")
    head = git(sources, "rev-parse", "HEAD").strip()
    assert versions(sources, BURNISH_COMMIT="c0ffee1234")["burnish_commit"] == head
    with (sources / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert versions(sources)["burnish_commit"] == head + "-dirty"


def test_version_is_defined_only_in_pyproject() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    message = re.compile(rf"(?<![\w.]){re.escape(version())}(?![\w.])")
    # the changelog has it in a heading, and another package may have the same version
    others = ("CHANGELOG.md", "requirements/", "bench/results/")
    named = [
        name for name in tracked.split("\0")
        if name and not name.startswith(others) and message.search((ROOT / name).read_text("utf-8", "replace"))
    ]  # fmt: skip
    assert named == ["pyproject.toml"]


def test_versions_list_the_installed_packages(sources: Path) -> None:
    found = versions(sources)
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{found["burnish"]}"' in project
    assert "torch" in found and "never-published-package" not in found and "python" in found


def test_pinned_llama_cpp_has_a_known_commit() -> None:
    pinned = re.search(r"^llama-cpp-python==(\S+)", (ROOT / "requirements" / "llama.txt").read_text(), re.MULTILINE)
    assert pinned is not None and re.fullmatch(r"[0-9a-f]{40}", LLAMA_COMMITS[pinned[1]])


@pytest.mark.parametrize("stage", ["train", "export", "serve"])
def test_each_stage_prints_its_version(stage: str, cli: Cli) -> None:
    done = cli(stage, "--version")
    assert done.returncode == 0 and done.stdout.startswith(f"burnish {version()}")
