"""make passes paths with spaces, quotes and dollar signs as one argument."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tests.support.commands import ROOT

# a nested make prints the directory it enters
OWN = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
NAMES = [
    "my rows.jsonl",
    "anna's rows.jsonl",
    'the "big" set.csv',
    "a $b & co (1);x.jsonl",
    "`ls` #1 \\ *.json",
    "parts/",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", ["check", "plan", "train"])
@pytest.mark.parametrize("given", ["command line", "environment"])
def test_paths_reach_the_program_unchanged(name: str, verb: str, given: str) -> None:
    words, environment = ([f"DATA={name}"], {}) if given == "command line" else ([], {"DATA": name})
    done = subprocess.run(
        ["make", "-n", f"VENV={sys.prefix}", "RUNNER=local", verb, *words],
        cwd=ROOT, env={**OWN, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if " -m train " in line)
    arguments = shlex.split(line)
    assert arguments[arguments.index("--data.path") + 1] == name


def test_config_and_file_paths_with_spaces_are_one_argument() -> None:
    make = ["make", "-n", f"VENV={sys.prefix}", "RUNNER=local"]
    for words in (["check", "CONFIG=my conf's.yaml"], ["examine", "FILE=my conf's.yaml"]):
        done = subprocess.run([*make, *words], cwd=ROOT, env=OWN, capture_output=True, text=True, timeout=60)
        assert "my conf's.yaml" in shlex.split(done.stdout.splitlines()[-1])
