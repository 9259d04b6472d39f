"""python -m export push over real HTTP against a fake Hub: uploads, rejections, and recovery from errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from burnish.files import file_sha256
from burnish.records import PushRecord
from burnish.run import Run
from tests.support.commands import ROOT, Cli
from tests.support.hub_double import Hub, running
from tests.support.published import WHY, make_run

Push = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as double:
        yield double


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "runs")


@pytest.fixture
def push(hub: Hub, run: Run, tmp_path: Path, cli: Cli) -> Push:
    """Push the run to me/model; arguments are settings, keywords are environment variables."""

    def call(*more: str, token: str | None = "hf_good", **environment: str) -> subprocess.CompletedProcess[str]:
        variables = hub.environment(tmp_path / "hf", token) | environment
        return cli("export", "push", *where(run), "--push.repo", "me/model", *more, timeout=90, **variables)

    return call


def where(run: Run) -> tuple[str, ...]:
    return "--run.root", str(run.path.parent), "--run.name", run.id


def line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only error line of a failed command."""
    assert done.returncode == 2, done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def test_push_creates_one_commit_in_a_private_repository_with_records(push: Push, hub: Hub, run: Run) -> None:
    done = push()
    assert done.returncode == 0, done.stderr
    repo = hub.repos["me/model"]
    assert repo.private and len(repo.commits) == 2  # the empty commit of the creation, and the push
    files = hub.files("me/model")
    for name in ("train.json", "export.json", "config.yaml"):
        assert files[name] == (run.path / name).read_bytes()
    assert files["model.safetensors"] == (run.path / "merged" / "model.safetensors").read_bytes()
    assert files["tuned-Q8_0.gguf"] == (run.path / "gguf" / "tuned-Q8_0.gguf").read_bytes()
    assert json.loads(files["params"]) == {"stop": ["<|im_end|>"]}
    record = run.read(PushRecord)
    assert (record.repo, record.commit, record.public) == ("me/model", repo.head, False)
    assert set(record.files) == set(files) - {".gitattributes"}
    assert record.export_sha256 == file_sha256(run.path / "export.json")
    assert {"burnish", "python", "huggingface_hub"} <= set(record.versions)


def test_published_files_can_be_verified_with_sha256sum(push: Push, hub: Hub, tmp_path: Path) -> None:
    assert push().returncode == 0
    for name, content in hub.files("me/model").items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "copy", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "tuned-F16.gguf: OK" in done.stdout


def test_second_push_uploads_nothing(push: Push, hub: Hub, run: Run) -> None:
    assert push().returncode == 0
    head, record = hub.repos["me/model"].head, run.read(PushRecord)
    hub.requests.clear()
    done = push()
    assert done.returncode == 0 and "nothing uploaded" in done.stderr
    assert not hub.requests_to("PUT", "/lfs/") and not hub.requests_to("POST", "/commit/")
    assert hub.repos["me/model"].head == head == run.read(PushRecord).commit == record.commit


def test_killed_push_resumes_with_the_missing_files(push: Push, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.seconds_a_part = 0.25
    environment = {**os.environ, **hub.environment(tmp_path / "hf")}
    command = [sys.executable, "-m", "export", "push", *where(run), "--push.repo", "me/model"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while len(hub.blobs) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    hub.wait_idle()  # the fake Hub has finished storing
    arrived = set(hub.blobs)
    large = {file_sha256(p) for p in run.path.rglob("*") if p.suffix in (".gguf", ".safetensors")}
    assert arrived < large and len(hub.repos["me/model"].commits) == 1 and not run.has(PushRecord)
    hub.requests.clear()
    hub.seconds_a_part = 0
    done = push()
    assert done.returncode == 0, done.stderr
    assert {r.path.split("/")[2] for r in hub.requests_to("PUT", "/lfs/")} == large - arrived
    assert len(hub.repos["me/model"].commits) == 2


def test_broken_upload_is_retried(push: Push, hub: Hub) -> None:
    hub.fail("PUT", "/lfs/", -1, after=300_000)
    done = push()
    assert done.returncode == 0, done.stderr
    assert "Retrying" in done.stderr and hub.files("me/model")["tuned-F16.gguf"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "whoami-v2", 429), ("POST", "repos/create", 503), ("PUT", "/lfs/", 429), ("POST", "/commit/main", 503)],
)
def test_rate_limits_and_server_errors_are_retried(method: str, path: str, status: int, push: Push, hub: Hub) -> None:
    hub.fail(method, path, status, Retry_After="0")
    done = push()
    assert done.returncode == 0, done.stderr
    assert str(status) in done.stderr
    assert len(hub.repos["me/model"].commits) == 2


def test_commit_is_not_repeated_when_its_response_was_lost(push: Push, hub: Hub) -> None:
    hub.lost_answers = 1
    done = push()
    assert done.returncode == 0 and "responded with 502; trying again" in done.stderr
    assert len(hub.repos["me/model"].commits) == 2


def test_unavailable_hub_is_a_one_line_error(push: Push, hub: Hub) -> None:
    hub.fail("GET", "/api/whoami-v2", 503, times=99, Retry_After="0")
    assert "the Hub responded with 503" in line(push())


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("hf_wrong", "rejects the token (HF_TOKEN): it is wrong or expired"),
        ("hf_read", "the token (HF_TOKEN) is not allowed to write to me/model"),
        (None, "no token is set: set HF_TOKEN or HF_TOKEN_PATH, or run `hf auth login`"),
    ],
)
def test_invalid_token_is_a_one_line_error_without_the_token(
    token: str | None, text: str, push: Push, hub: Hub, run: Run
) -> None:
    done = push(token=token)
    assert text in line(done)
    assert "me/model" not in hub.repos and not run.has(PushRecord)
    assert not token or token not in done.stdout + done.stderr


def test_read_only_repository_is_rejected_before_uploads(push: Push, hub: Hub) -> None:
    assert push().returncode == 0
    hub.requests.clear()
    assert "is not allowed to write to me/model" in line(push(token="hf_read"))
    assert not hub.requests_to("POST", "objects/batch")


def test_error_without_network_names_the_hub_address(push: Push) -> None:
    output = line(push(HF_ENDPOINT="http://127.0.0.1:9"))
    assert "push.repo me/model: the Hub can't be reached (http://127.0.0.1:9): check the network" in output
    assert "push.repo me/model: HF_HUB_OFFLINE is set, so the Hub was not contacted" in line(push(HF_HUB_OFFLINE="1"))


def test_namespace_of_a_different_user_is_rejected(push: Push, hub: Hub) -> None:
    assert "not allowed to write to them/model" in line(push("--push.repo", "them/model"))


def test_repository_not_published_by_burnish_is_rejected_and_unchanged(push: Push, hub: Hub) -> None:
    hub.add("me/model", {"pytorch_model.bin": b"another model"}, private=True)
    assert "the name is taken by a model that Burnish did not publish" in line(push())
    assert set(hub.files("me/model")) == {"pytorch_model.bin"}
    hub.add("me/other", {"x": b""}, hidden=True)
    assert "the name is taken by something that your token can't see" in line(push("--push.repo", "me/other"))


def test_public_repository_is_used_only_with_push_public(push: Push, hub: Hub, run: Run) -> None:
    assert push("--push.public", "true").returncode == 0
    assert not hub.repos["me/model"].private and run.read(PushRecord).public
    assert "is public: set PUBLIC=1" in line(push())


def test_token_is_read_from_secret_file_and_login(push: Push, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hf_good\n")
    assert push(token=None, HF_TOKEN_PATH=str(tmp_path / "secret")).returncode == 0
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("hf_good")  # where `hf auth login` stores it
    assert push(token=None).returncode == 0


def test_token_appears_in_no_output_or_file(push: Push, hub: Hub, run: Run) -> None:
    hub.fail("PUT", "/lfs/", 503)
    done = push()
    assert done.returncode == 0
    assert "hf_good" not in done.stdout + done.stderr
    assert not [p for p in run.path.rglob("*") if p.is_file() and b"hf_good" in p.read_bytes()]
    assert not [name for name, content in hub.files("me/model").items() if b"hf_good" in content]
    assert {r.token for r in hub.requests_to("PUT", "/lfs/")} == {
        None
    }  # upload URLs are signed, so no token is sent to them


def test_failed_artifact_is_not_published(hub: Hub, tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path / "failed", failed=("Q4_K_M",))
    to = ("--push.repo", "me/model")
    done = cli("export", "push", *where(run), *to, **hub.environment(tmp_path / "hf"))
    assert done.returncode == 0 and f"left out: gguf/tuned-Q4_K_M.gguf failed its exam: {WHY}" in done.stderr
    assert "tuned-Q4_K_M.gguf" not in hub.files("me/model")
    pushed = cli("export", "push", *where(run), *to, "--push.what", "Q4_K_M", **hub.environment(tmp_path / "hf"))
    assert "failed its exam" in line(pushed)


def test_run_without_passing_artifacts_is_published_only_with_a_warning(hub: Hub, tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path / "failed", failed=("F16", "Q8_0", "Q4_K_M"))
    command = ("export", "push", *where(run), "--push.repo", "me/model")
    assert "no artifact passed its exam" in line(cli(*command, **hub.environment(tmp_path / "hf")))
    assert "me/model" not in hub.repos
    done = cli(*command, "--push.allow_failed", "true", **hub.environment(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    card = hub.files("me/model")["README.md"].decode()
    assert "**Warning: not everything here passed its exam.**" in card and WHY in card


def test_exceeded_quota_is_reported(push: Push, hub: Hub, run: Run) -> None:
    hub.quota_bytes = 1000
    assert "has too little storage for it: Private repository storage limit reached" in line(push())
    assert len(hub.repos["me/model"].commits) == 1 and not run.has(PushRecord)


def test_local_path_in_the_records_causes_a_warning(hub: Hub, tmp_path: Path, cli: Cli) -> None:
    data = {
        "path": "/home/me/rows.jsonl",
        "sha256": "d" * 64,
        "format": "f",
        "rows": 1,
        "eval_rows": 1,
        "over_length": 0,
    }
    run = make_run(tmp_path / "runs", data=data)
    done = cli("export", "push", *where(run), "--push.repo", "me/model", "--dry-run")
    assert "warning: the records contain a local path" in done.stderr
    assert "data.path /home/me/rows.jsonl" in done.stderr


def test_quantized_merged_weights_are_never_published(push: Push, hub: Hub, run: Run) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"weight": np.ones((64, 64), np.uint8)}, run.path / "merged" / "model.safetensors")
    assert "merged weights are not published (model.safetensors: U8)" in line(push("--push.allow_failed", "true"))
    assert "me/model" not in hub.repos


@pytest.mark.parametrize("name", ["gguf/tuned-Q8_0.gguf", "adapter/adapter_config.json", "merged/tokenizer.json"])
def test_file_changed_since_its_record_is_rejected(name: str, push: Push, hub: Hub, run: Run) -> None:
    (run.path / name).write_bytes((run.path / name).read_bytes() + b" ")
    assert "differs from its record (sha256)" in line(push())
    assert "me/model" not in hub.repos


def test_dry_run_lists_files_and_sizes_without_network(push: Push, hub: Hub, run: Run) -> None:
    done = push("--dry-run", "--push.what", "Q8_0,adapter")
    assert done.returncode == 0, done.stderr
    assert "tuned-Q8_0.gguf" in done.stdout and "1.6 MB" in done.stdout and "private" in done.stdout
    assert "tuned-F16.gguf" not in done.stdout and "model.safetensors" not in done.stdout.replace("adapter_model", "")
    assert not hub.requests and not run.has(PushRecord)


def test_push_of_a_retrained_run_replaces_the_old_files(push: Push, hub: Hub, tmp_path: Path, cli: Cli) -> None:
    assert push().returncode == 0
    hub.add("me/model", {"picture.png": b"by hand"})
    again = make_run(tmp_path / "runs", name="better")
    done = cli("export", "push", *where(again), "--push.repo", "me/model", **hub.environment(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    files = set(hub.files("me/model"))
    assert {"better-Q8_0.gguf", "picture.png"} <= files and "tuned-Q8_0.gguf" not in files


def test_repository_is_read_from_the_training_config(hub: Hub, run: Run, tmp_path: Path, cli: Cli) -> None:
    config = json.loads((run.path / "config.yaml").read_text())
    config["push"] = {"repo": "me/from-config", "what": ["Q8_0"], "public": True, "allow_failed": False}
    (run.path / "config.yaml").write_text(json.dumps(config))
    done = cli("export", "push", *where(run), "--push.what", "adapter", **hub.environment(tmp_path / "hf"))
    assert done.returncode == 0, done.stderr
    assert not hub.repos["me/from-config"].private
    assert "adapter/adapter_config.json" in hub.files("me/from-config")
    assert "tuned-Q8_0.gguf" not in hub.files("me/from-config")
    (run.path / "config.yaml").write_text(json.dumps({**config, "push": {"repository": "me/model"}}))
    assert "config.yaml: push.repository: Extra inputs are not permitted" in line(cli("export", "push", *where(run)))


def test_missing_repository_and_unknown_push_part_are_reported(run: Run, cli: Cli) -> None:
    assert "push.repo is required: set REPO=owner/name" in line(cli("export", "push", *where(run)))
    done = cli("export", "push", *where(run), "--push.repo", "me/model", "--push.what", "ggufs")
    assert "did you mean 'gguf'?" in line(done)
    assert "push.repo is 'model'" in line(cli("export", "push", *where(run), "--push.repo", "model"))


@pytest.mark.parametrize("what", ["adapter", "lora"])
def test_adapter_can_be_published_without_an_export(what: str, push: Push, hub: Hub, run: Run) -> None:
    (run.path / "export.json").unlink()
    done = push("--push.what", what)
    assert done.returncode == 0, done.stderr
    files = hub.files("me/model")
    assert "export.json" not in files and files["train.json"] == (run.path / "train.json").read_bytes()
    assert {name for name in files if name.startswith("adapter/")} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    assert b"no artifact made from it was examined" in files["README.md"]
    record = run.read(PushRecord)
    assert (record.export_sha256, record.train_sha256) == (None, file_sha256(run.path / "train.json"))


def test_later_push_adds_exported_files_to_the_same_repository(push: Push, hub: Hub, run: Run) -> None:
    export = (run.path / "export.json").read_bytes()
    (run.path / "export.json").unlink()
    assert push("--push.what", "adapter").returncode == 0
    (run.path / "export.json").write_bytes(export)
    assert push().returncode == 0
    assert {"export.json", "model.safetensors"} <= set(hub.files("me/model"))


def test_stale_export_is_not_published_with_the_adapter(push: Push, hub: Hub, run: Run) -> None:
    (run.path / "train.json").write_text((run.path / "train.json").read_text() + "\n")
    done = push("--push.what", "adapter")
    assert done.returncode == 0 and "export.json is from an earlier training and is left out" in done.stderr
    assert "export.json" not in hub.files("me/model")
    assert "is from an earlier training: run `make export` again" in line(push())


def test_push_of_gguf_or_merged_requires_an_export(push: Push, run: Run) -> None:
    (run.path / "export.json").unlink()
    output = line(push("--push.what", "adapter,merged"))
    assert "run `make export` first (WHAT=adapter publishes the adapter without an export)" in output
