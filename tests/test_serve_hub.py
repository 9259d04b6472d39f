"""python -m serve --model hf://...: a published run is downloaded, verified and served, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.files import text_sha256
from burnish.llama import Model
from tests.support.commands import Cli
from tests.support.hub_double import Hub, running
from tests.support.published import make_run
from tests.support.server import ServerProcess, serving, small_model

REPO = "me/model"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Iterator[Hub]:
    """A fake Hub with a pushed run of the small real model."""
    with Model.open(small_model(), vocab_only=True) as model:
        template = text_sha256(model.chat_template or "")
    root = tmp_path_factory.mktemp("published")
    run = make_run(root / "runs", model=small_model(), chat_template_sha256=template)
    with running() as hub:
        words = ("--run.root", str(run.path.parent), "--push.repo", REPO)
        done = cli("export", "push", *words, timeout=120, **hub.environment(root / "hf"))
        assert done.returncode == 0, done.stderr
        yield hub


def refused(hub: Hub, home: Path, model: str = f"hf://{REPO}", **more: Any) -> str:
    """Return the output of a server that must not start."""
    server = ServerProcess(model=model, environment=hub.environment(home), **more)
    code = server.process.wait(90)
    server.stop()
    assert code == 2 and server.output.count("error: ") == 1 and "Traceback" not in server.output, server.output
    return server.output


@pytest.mark.slow
def test_pushed_run_is_served_from_the_hub_and_then_from_the_cache(published: Hub, tmp_path: Path) -> None:
    environment = published.environment(tmp_path)
    published.requests.clear()
    with serving(model=f"hf://{REPO}", environment=environment) as server:
        version = server.call("GET", "/version")[2]
        assert (version["run_id"], version["hub"]) == ("tuned", f"{REPO}@{published.repos[REPO].head}")
        reply = server.chat("What is the capital of Japan?", max_tokens=12, temperature=0)[2]
        assert "Tokyo" in reply["choices"][0]["message"]["content"]
    fetched = {r.path.rsplit("/", 1)[-1] for r in published.requests_to("GET", "/resolve/")}
    assert fetched == {"export.json", "train.json"} and len(published.requests_to("GET", "/cdn/")) == 1
    assert {r.token for r in published.requests_to("GET", "/cdn/")} == {None}
    unreachable = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    for offline in ({**environment, "HF_HUB_OFFLINE": "1"}, unreachable):
        with serving(model=f"hf://{REPO}", environment=offline) as server:
            assert server.call("GET", "/version")[2]["hub"] == version["hub"]


def test_pinned_revision_is_served_after_later_pushes(published: Hub, tmp_path: Path) -> None:
    commit = published.repos[REPO].head
    published.add(REPO, {"notes.txt": b"later"})
    with serving(model=f"hf://{REPO}@{commit}", environment=published.environment(tmp_path)) as server:
        assert server.call("GET", "/version")[2]["hub"] == f"{REPO}@{commit}"


@pytest.mark.slow
def test_file_altered_on_the_hub_is_rejected(published: Hub, tmp_path: Path) -> None:
    files = published.files(REPO)
    model = next(name for name in files if name.endswith(".gguf"))
    published.add("me/altered", {**files, model: files[model][:-1] + b"x"}, private=True)
    assert "its sha256 differs from the record" in refused(published, tmp_path / "a", "hf://me/altered")
    record = json.loads(files["train.json"]) | {"template_date": "1999-01-01"}
    published.add("me/retold", {**files, "train.json": json.dumps(record).encode()}, private=True)
    assert "train.json was altered" in refused(published, tmp_path, "hf://me/retold")


def test_hub_model_without_records_is_rejected_with_advice(published: Hub, tmp_path: Path) -> None:
    published.add("them/some-GGUF", {"some-Q8_0.gguf": b"GGUF"})
    output = refused(published, tmp_path, "hf://them/some-GGUF")
    assert "Burnish did not publish it" in output and "hf download them/some-GGUF FILE.gguf" in output


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("hf://me/nothing", "not on the Hub, or private"),
        (f"hf://{REPO}@v9", "no revision 'v9'"),
        ("hf://model", "is not a Hub reference: expected hf://owner/name"),
    ],
)
def test_missing_repository_or_file_is_a_one_line_error(model: str, text: str, published: Hub, tmp_path: Path) -> None:
    assert text in refused(published, tmp_path, model)


def test_unpublished_artifact_is_a_one_line_error(published: Hub, tmp_path: Path) -> None:
    assert "has no GGUF 'Q2_K'; available: Q4_1 (pass)" in refused(published, tmp_path, artifact="Q2_K")


def test_missing_network_and_cache_is_reported(published: Hub, tmp_path: Path) -> None:
    server = ServerProcess(model=f"hf://{REPO}", environment={**published.environment(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert server.process.wait(60) == 2
    server.stop()
    assert "not in the local cache, and HF_HUB_OFFLINE is set, so the Hub was not contacted" in server.output
