"""Damaged or hostile model files give a one-line error and exit code 2, even if llama.cpp crashes.

BURNISH_TEST_MUTANTS sets the number of mutants (200).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import gguf_mutants as mutants
from tests.support.commands import ROOT, Cli, own_environment
from tools.tiny_gguf import ARRAY, STRING, U32

MUTANTS = int(os.environ.get("BURNISH_TEST_MUTANTS", "200"))


def value(key: str, kind: int, given: object) -> Callable[[mutants.Parts], None]:
    return lambda parts: mutants.set_pair(parts, key, kind, given)


def integer_weights(parts: mutants.Parts) -> None:
    parts.tensors = [(name, shape, 25 if "ffn_down" in name else kind, at) for name, shape, kind, at in parts.tensors]


def nan_weights(parts: mutants.Parts) -> None:
    parts.data[:] = b"\x00\x7e" * (len(parts.data) // 2)


def same_tokens(parts: mutants.Parts) -> None:
    mutants.set_pair(parts, "tokenizer.ggml.tokens", ARRAY, (STRING, ["a"] * mutants.SMALL.vocabulary))


BAD: dict[str, tuple[Callable[[mutants.Parts], None], str]] = {
    "an assertion on the experts": (value("llama.expert_count", U32, 1_000_000), "ended by SIGABRT: GGML_ASSERT("),
    "an assertion on the layers": (value("llama.block_count", U32, 9999), "ended by SIGABRT: GGML_ASSERT("),
    "an assertion on the tokens": (same_tokens, "ended by SIGABRT: GGML_ASSERT("),
    "a read outside of memory": (integer_weights, "the load test ended by SIGSEGV"),
    "weights that are not numbers": (nan_weights, "computed logits that are not finite"),
    "no tokenizer": (value("tokenizer.ggml.model", STRING, "none"), "has no tokenizer"),
    "an unknown architecture": (value("general.architecture", STRING, "x"), "llama.cpp can't load it: "),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_model_is_a_one_line_error(name: str, tmp_path: Path, cli: Cli) -> None:
    change, expected = BAD[name]
    parts = mutants.whole(random.Random(0))
    change(parts)
    path = tmp_path / "bad.gguf"
    path.write_bytes(parts.file())
    done = cli("serve", "--model", str(path), "--port", "0", BURNISH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {path}: ") and expected in done.stderr


@pytest.mark.parametrize("kind", ["fifo", "directory", "nothing", "device", "empty"])
def test_path_that_is_not_a_file_is_a_one_line_error(kind: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "bad.gguf"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "empty":
            path.touch()
    done = cli("serve", "--model", str(path), "--port", "0", timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and str(path) in done.stderr


@pytest.mark.slow
def test_mutated_model_that_passes_the_load_test_does_not_crash_the_server() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.gguf_outcomes", "0", str(MUTANTS)],
        cwd=ROOT, env=own_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["wrong"] and sum(found["counts"].values()) == MUTANTS
    # most are refused, some are harmless, and some would have crashed the server
    assert found["counts"]["1"] and found["counts"]["0"] and found["counts"]["-6"]
