"""The README's publishing commands with make and a fake Hub, and the container's mounts and variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from burnish.files import text_sha256
from burnish.llama import Model
from burnish.records import PushRecord
from burnish.run import Run
from tests.support.commands import ROOT, free_port
from tests.support.hub_double import Hub, running
from tests.support.published import make_run
from tests.support.server import made, small_model


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running() as double:
        yield double


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with Model.open(small_model(), vocab_only=True) as model:
        template = text_sha256(model.chat_template or "")
    return make_run(tmp_path_factory.mktemp("runs"), model=small_model(), chat_template_sha256=template)


def command(run: Run, *words: str) -> list[str]:
    option = "--runs" if words[0] == "serve" else "--run.root"
    return ["make", f"VENV={sys.prefix}", "RUNNER=local", *words, f"SET={option} {run.path.parent}"]


def make(hub: Hub, run: Run, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **hub.environment(run.path.parent / "hf")}
    return subprocess.run(command(run, *words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_documented_commands_publish_and_serve(hub: Hub, run: Run) -> None:
    done = make(hub, run, "push", "REPO=me/model", "DRY_RUN=1")
    assert done.returncode == 0 and "tuned-Q4_1.gguf" in done.stdout and not hub.repos, done.stderr
    done = make(hub, run, "push", "REPO=me/model", "RUN=tuned", "WHAT=Q4_1,adapter", "PUBLIC=1")
    assert done.returncode == 0 and not hub.repos["me/model"].private, done.stderr
    assert "model.safetensors" not in run.read(PushRecord).files
    done = make(hub, run, "card")
    assert done.returncode == 0 and "pipeline_tag: text-generation" in done.stdout, done.stderr
    port = free_port()
    words = command(run, "serve", "MODEL=hf://me/model", f"PORT={port}")
    with made(words, {**os.environ, **hub.environment(run.path.parent / "fresh")}):
        version = httpx.get(f"http://127.0.0.1:{port}/version", timeout=5).json()
        assert version["hub"].startswith("me/model@")


def test_serve_container_gets_the_hub_cache_and_token_as_files(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\ncase "$1 $2" in "compose run") echo "$@" ;; esac\n')
    (tmp_path / "docker").chmod(0o755)
    words = ["/bin/bash", "tools/docker.sh", "serve", "--model", "hf://me/model", "--port", str(free_port())]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"--volume {tmp_path}/.cache/huggingface:/cache/huggingface" in done.stdout
    assert "hf_token:/run/secrets/hf_token:ro --env HF_TOKEN_PATH=/run/secrets/hf_token" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr
