"""Base models by their hub id, against a fake Hub: which files are downloaded, and one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.support.commands import ROOT
from tests.support.hub_double import Hub, running

CARD = b"---\nlicense: other\nlicense_name: barrel-1.0\nlicense_link: https://example.org/barrel\n---\n# Base\n"
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
FILES = {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "model-00001-of-00002.safetensors": save({"a": np.ones(1)}),
    "model-00002-of-00002.safetensors": save({"b": np.ones(1)}),
    "README.md": CARD,
}
RESOLVE = (
    "import sys, json; from burnish.bases.base import resolve, licence; from burnish.errors import run_edge\n"
    "def main():\n"
    "    base = resolve(sys.argv[1], sys.argv[2] or None)\n"
    "    print(json.dumps([base.revision, base.sha256, licence(base), base.path.as_posix()])); return 0\n"
    "run_edge(main)\n"
)

Resolve = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as double:
        double.add("them/base", FILES)
        yield double


@pytest.fixture
def resolve(hub: Hub, tmp_path: Path) -> Resolve:
    def call(base: str, revision: str = "", token: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **hub.environment(tmp_path / "hf", token), **more}
        command = [sys.executable, "-c", RESOLVE, base, revision]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)

    return call


def line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


def test_base_is_downloaded_at_a_commit_with_its_licence(resolve: Resolve, hub: Hub) -> None:
    done = resolve("them/base")
    assert done.returncode == 0, done.stderr
    revision, digest, licence, _ = json.loads(done.stdout)
    assert revision == hub.repos["them/base"].head
    link = "https://example.org/barrel"
    assert licence == {"license": "other", "license_name": "barrel-1.0", "license_link": link}
    hub.add("them/base", {"README.md": b"# Another page", "weights.msgpack": b"unused"})
    assert json.loads(resolve("them/base").stdout)[1] == digest  # the model card is not part of the model


def test_cached_base_needs_no_network(resolve: Resolve) -> None:
    first = resolve("them/base")
    for more in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = resolve("them/base", **more)
        assert again.returncode == 0 and again.stdout == first.stdout, again.stderr


def test_gated_base_error_names_the_page_to_open(resolve: Resolve, hub: Hub) -> None:
    hub.add("them/gated", FILES, gated=True)
    page = "base.id them/gated: the repository is gated: accept its licence at https://huggingface.co/them/gated"
    assert f"{page} (then set HF_TOKEN)" in line(resolve("them/gated"))
    assert f"{page} (your token's account has no access yet)" in line(resolve("them/gated", token="hf_good"))


def test_missing_base_and_wrong_revision_are_reported(resolve: Resolve) -> None:
    assert "base.id them/nothing: not on the Hub, or private (your token: none)" in line(resolve("them/nothing"))
    assert "base.id them/base: no revision 'v9': see https://huggingface.co/them/base/commits/main" in line(
        resolve("them/base", "v9")
    )
    assert f"no revision '{'f' * 40}'" in line(resolve("them/base", "f" * 40))
    assert "no such file or directory" in line(resolve("./them/base"))


def test_invalid_token_error_names_the_source_of_the_token(resolve: Resolve, hub: Hub) -> None:
    hub.add("me/private", FILES, private=True)
    done = resolve("me/private", token="hf_wrong")
    assert "the Hub rejects the token (HF_TOKEN): it is wrong or expired" in line(done)
    assert "hf_wrong" not in done.stdout + done.stderr


def test_error_without_network_names_the_hub_address(resolve: Resolve) -> None:
    done = resolve("them/base", HF_ENDPOINT="http://127.0.0.1:9")
    assert "not in the local cache, and the Hub can't be reached (http://127.0.0.1:9): check the network" in line(done)
    assert "HF_HUB_OFFLINE is set, so the Hub was not contacted" in line(resolve("them/base", HF_HUB_OFFLINE="1"))


def test_partial_cache_is_completed_online_and_reported_offline(resolve: Resolve) -> None:
    first = resolve("them/base")
    snapshot = Path(json.loads(first.stdout)[3])
    shard = snapshot / "model-00002-of-00002.safetensors"
    shard.resolve().unlink()
    shard.unlink()
    done = resolve("them/base", HF_HUB_OFFLINE="1")
    assert "base.id them/base: the local cache has only part of it" in line(done)
    trees = next(p for p in snapshot.parent.parent.iterdir() if p.name == "trees")
    for listing in trees.iterdir():  # older clients store no file listing, so the model's index is used
        listing.rename(listing.with_suffix(".away"))
    error = line(resolve("them/base", HF_HUB_OFFLINE="1"))
    assert "names model-00002-of-00002.safetensors, which is missing" in error
    assert error.endswith("run again with a network to complete it")
    assert resolve("them/base").stdout == first.stdout


def test_endpoint_that_is_not_a_hub_is_reported(resolve: Resolve, hub: Hub) -> None:
    hub.fail("HEAD", "/resolve/", 200, times=99)  # no commit and no ETag, like the page of a proxy
    assert f"{hub.url} does not respond like the Hub: check HF_ENDPOINT" in line(resolve("them/base"))


def test_unusable_hub_cache_is_reported(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "the Hub's cache can't be used" in line(resolve("them/base", HF_HOME=str(tmp_path / "file" / "hub")))


def test_repository_without_weights_is_rejected(resolve: Resolve, hub: Hub) -> None:
    hub.add("them/ggufs", {"config.json": b"{}", "x.gguf": b"GGUF"})
    assert "is not a model: expected config.json and *.safetensors (or .bin)" in line(resolve("them/ggufs"))


def test_server_error_is_retried(resolve: Resolve, hub: Hub) -> None:
    hub.fail("GET", "/revision/", 503, times=2, Retry_After="0")
    done = resolve("them/base")
    assert done.returncode == 0 and "responded with 503; trying again" in done.stderr
