"""A push in the training settings is checked before training, so that a bad token costs seconds, not the run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import Cli
from tests.support.hub_double import Hub, running

Train = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as double:
        yield double


@pytest.fixture
def train(hub: Hub, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli) -> Train:
    def call(token: str, repo: str = "me/model") -> subprocess.CompletedProcess[str]:
        words = ("--base.id", str(tiny_base), "--data.path", str(rows), "--run.root", str(tmp_path / "runs"))
        limits = ("--run.name", "one", "--data.max_length", "128", "--train.max_steps", "1", "--exam.answers", "0")
        return cli("train", "run", *words, *limits, "--push.repo", repo, timeout=200,
                   **hub.environment(tmp_path / "hf", token))  # fmt: skip

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "repo", "text"),
    [
        ("hf_wrong", "me/model", "rejects the token (HF_TOKEN)"),
        ("hf_good", "them/model", "is not allowed to write to them/model"),
    ],
)
def test_impossible_push_is_rejected_before_training(
    token: str, repo: str, text: str, train: Train, tmp_path: Path
) -> None:
    done = train(token, repo)
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "one" / "adapter").exists() and "hf_wrong" not in done.stderr


@pytest.mark.slow
def test_insufficient_hub_storage_is_reported_with_the_size(train: Train, hub: Hub) -> None:
    hub.quota_bytes = 1000
    done = train("hf_good")
    assert done.returncode == 2, done.stderr
    assert "has too little storage for it: Private repository storage" in done.stderr


@pytest.mark.slow
def test_finished_run_keeps_its_push_repository(train: Train, hub: Hub, tmp_path: Path) -> None:
    done = train("hf_good")
    assert done.returncode == 0, done.stderr
    assert "push: 'me' can publish to me/model" in done.stderr and hub.repos["me/model"].private
    assert "repo: me/model" in (tmp_path / "runs" / "one" / "config.yaml").read_text()
    assert "hf_good" not in "".join(
        p.read_text(errors="replace") for p in (tmp_path / "runs").rglob("*.*") if p.is_file()
    )


@pytest.mark.slow
def test_hub_base_is_pinned_to_the_trained_commit(
    hub: Hub, tiny_base: Path, rows: Path, tmp_path: Path, cli: Cli
) -> None:
    card = b"---\nlicense: apache-2.0\n---\n"
    files = {p.name: p.read_bytes() for p in tiny_base.iterdir()}
    commit = hub.add("them/tiny", {**files, "README.md": card})
    words = ("--data.path", str(rows), "--run.name", "one", "--train.max_steps", "2", "--exam.answers", "0")
    environment, root = hub.environment(tmp_path / "hf", None), ("--run.root", str(tmp_path / "runs"))
    done = cli("train", "run", "--base.id", "them/tiny", "--data.max_length", "128", *words, *root, **environment)
    assert done.returncode == 0, done.stderr
    base = Run(tmp_path / "runs" / "one").read(TrainRecord).base
    assert (base.id, base.revision, base.license) == ("them/tiny", commit, {"license": "apache-2.0"})
    hub.add("them/tiny", {"config.json": b"{}"})
    done = cli("export", "run", *root, "--gguf.quants", "Q8_0", **environment)
    assert done.returncode == 0, done.stderr
    done = cli("export", "card", *root, "--push.allow_failed", "true", **environment)
    assert "base_model: them/tiny" in done.stdout and "license: apache-2.0" in done.stdout, done.stderr
