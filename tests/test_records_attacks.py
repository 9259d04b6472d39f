"""Untrusted runs: every reader quickly rejects hostile records with clear errors or accepts them safely."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from burnish import report
from burnish.bases.base import Base, BaseError
from burnish.errors import run_edge
from burnish.files import file_sha256
from burnish.run import Run
from export import stage
from export.__main__ import main as export
from serve import hub
from serve.artifact import choose
from serve.settings import ServeSettings
from tests.support.published import link_or_copy, make_run
from tests.support.record_attacks import attacks

RECORDS = ("train.json", "export.json", "push.json")
SLOWEST_S = 5.0
COUNT = 100  # of each record
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def outcome(command: Callable[[], Any]) -> tuple[int, str]:
    """Return a command's exit code and output. Unhandled exceptions are raised."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_edge(lambda: (command() and 0) or 0)
    return int(ended.value.code or 0), out.getvalue() + err.getvalue()


def push_record(run: Run) -> dict[str, Any]:
    return {
        "schema_version": 1, "run_id": run.id, "created": "2026-01-04T00:00:00Z", "repo": "me/model",
        "commit": "c0ffee", "export_sha256": file_sha256(run.path / "export.json"),
        "files": ["README.md", "adapter/a.json"], "public": False, "versions": {"burnish": "0.0.9"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("stranger") / "runs", "strange")
    (run.path / "push.json").write_text(json.dumps(push_record(run)))
    return run


@pytest.fixture
def originals(run: Run) -> Iterator[dict[str, bytes]]:
    """The three original records, restored afterwards."""
    kept = {name: (run.path / name).read_bytes() for name in RECORDS}
    yield kept
    for name, content in kept.items():
        (run.path / name).write_bytes(content)


def write(run: Run, record: str, content: bytes, originals: dict[str, bytes]) -> None:
    """Write a hostile record next to valid ones; export.json gets the matching hash of train.json."""
    for name, good in originals.items():
        (run.path / name).write_bytes(content if name == record else good)
    if record == "train.json":
        exported = json.loads(originals["export.json"]) | {"train_sha256": file_sha256(run.path / "train.json")}
        (run.path / "export.json").write_text(json.dumps(exported))


def no_base(*_: object) -> Base:
    raise BaseError("the records were read")


def serve_from_hub(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Read the run as serve reads a Hub repository from the local cache."""
    snapshot = run.path.parent / "models--me--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(exist_ok=True)

    def download(repo: str, revision: str | None, names: Any) -> Path:
        for path in (*(run.path / name for name in RECORDS), *run.path.glob("gguf/*.gguf")):
            (snapshot / path.name).unlink(missing_ok=True)
            (blobs / path.name).unlink(missing_ok=True)
            link_or_copy(path, blobs / path.name)
            (snapshot / path.name).symlink_to(blobs / path.name)
        return snapshot

    monkeypatch.setattr(hub.hub, "download", download)
    return lambda: choose(ServeSettings(model="hf://me/model"))


def readers(run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    monkeypatch.setattr(stage, "resolve", no_base)
    where = ["--run.root", str(run.path.parent), "--run.name", run.id]
    return {
        "export": lambda: export(["run", *where]),
        "card": lambda: export(["card", *where]),
        "push": lambda: export(["push", *where, "--push.repo", "me/model", "--dry-run"]),
        "serve": lambda: choose(ServeSettings(runs=str(run.path.parent), run=run.id)),
        "serve, unnamed": lambda: choose(ServeSettings(runs=str(run.path.parent), allow_unproven=True)),
        "serve from the Hub": serve_from_hub(run, monkeypatch),
        "report": lambda: report.write(run),
    }


@pytest.mark.parametrize("record", RECORDS)
def test_hostile_records_never_crash_hang_or_reach_the_terminal(
    record: str, run: Run, originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[str] = []
    for name, content in attacks(json.loads(originals[record]), COUNT, seed=len(record)):
        write(run, record, content, originals)
        for reader, command in readers(run, monkeypatch).items():
            started = time.monotonic()
            try:
                code, output = outcome(command)
            except BaseException as error:  # errors that no validation would catch
                wrong.append(f"{reader}: {name}: {error!r:.300}")
                continue
            faults = [line for line in output.split("\n") if line.startswith("error: ")]
            if code not in (0, 2) or (code == 2) != bool(faults):
                wrong.append(f"{reader}: {name}: exit code {code}: {output[-300:]}")
            if HIDDEN.search(output):
                wrong.append(f"{reader}: {name}: hidden characters in {output[-300:]!r}")
            if time.monotonic() - started > SLOWEST_S:
                wrong.append(f"{reader}: {name}: {time.monotonic() - started:.1f} s")
    assert not wrong, "\n".join(wrong[:30])
