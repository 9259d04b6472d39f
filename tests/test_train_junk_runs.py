"""Unrelated content in runs/ never prevents training from finding its unfinished run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.data.files import data_sha256
from burnish.errors import UserError
from burnish.run import Run
from train.resume import _newest_unfinished, choose
from train.settings import TrainSettings

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(12)
)
JUNK: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: None,
    "a list": lambda path: (path / "config.yaml").write_text("[1]"),
    "not YAML": lambda path: (path / "config.yaml").write_text("{"),
    "a date without a month": lambda path: (path / "config.yaml").write_text("train: {x: 2026-99-99}"),
    "an alias bomb": lambda path: (path / "config.yaml").write_text(BOMB),
    "itself": lambda path: (path / "config.yaml").write_text("a: &a {b: *a}"),
    "deep": lambda path: (path / "config.yaml").write_text("[" * 5000),
    "binary": lambda path: (path / "config.yaml").write_bytes(b"\xff\x00"),
    "a pipe": lambda path: os.mkfifo(path / "config.yaml"),
    "a directory": lambda path: (path / "config.yaml").mkdir(),
    "a link away": lambda path: (path / "config.yaml").symlink_to("/etc/passwd"),
    "no started.json": lambda path: (path / "config.yaml").write_text("{}"),
    "records that are pipes": lambda path: os.mkfifo(path / "export.json"),
}
STARTED = (
    "[]",
    "{",
    "[" * 100_000,
    '{"asked": 1}',
    '{"asked": {"base": 1}}',
    '{"asked": {"base": {"id": []}}}',
    "null",
)


def settings(root: Path) -> TrainSettings:
    (root / "rows.jsonl").write_text('{"text": "x"}\n')
    return TrainSettings.model_validate(
        {"base": {"id": "them/base"}, "data": {"path": str(root / "rows.jsonl")}, "run": {"root": str(root / "runs")}}
    )


def started(root: Path, name: str, requested: TrainSettings, created: str | None) -> None:
    path = root / "runs" / name
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(requested.model_dump()))
    content = {
        "data_sha256": data_sha256(Path(requested.data.path)),
        "eval_sha256": None,
        "asked": requested.model_dump(),
    }
    (path / "started.json").write_text(json.dumps(content | ({"created": created} if created else {})))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A runs directory with every kind of invalid content."""
    for n, (name, make) in enumerate(JUNK.items()):
        path = tmp_path / "runs" / f"{n} {name}"
        path.mkdir(parents=True)
        make(path)
    for n, text in enumerate(STARTED):
        path = tmp_path / "runs" / f"started {n}"
        path.mkdir()
        (path / "config.yaml").write_text("{}")
        (path / "started.json").write_text(text)
    os.mkfifo(tmp_path / "runs" / "pipe")
    os.symlink("nowhere", tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "file").write_text("x")
    (tmp_path / "runs" / "waits").mkdir()
    (tmp_path / "runs" / "waits" / "config.yaml").write_text("{}")
    os.mkfifo(tmp_path / "runs" / "waits" / "started.json")
    return tmp_path


def test_unfinished_run_is_found_among_invalid_directories(root: Path) -> None:
    requested = settings(root)
    assert _newest_unfinished(root / "runs", requested) is None
    started(root, "mine", requested, "2026-01-02T00:00:00Z")
    assert _newest_unfinished(root / "runs", requested) == "mine"


def test_newest_unfinished_run_is_the_one_started_last(tmp_path: Path) -> None:
    requested = settings(tmp_path)
    started(tmp_path, "first", requested, "2026-01-01T00:00:00Z")
    started(tmp_path, "last", requested, "2026-01-02T00:00:00Z")
    for name in ("config.yaml", "started.json"):
        os.utime(tmp_path / "runs" / "last" / name, (1, 1))
    assert _newest_unfinished(tmp_path / "runs", requested) == "last"


def test_run_of_an_older_version_is_dated_by_file_time(tmp_path: Path) -> None:
    requested = settings(tmp_path)
    started(tmp_path, "older", requested, None)
    os.utime(tmp_path / "runs" / "older" / "started.json", (1, 1))
    started(tmp_path, "newer", requested, "2026-01-01T00:00:00Z")
    assert _newest_unfinished(tmp_path / "runs", requested) == "newer"


@pytest.mark.parametrize(
    "name", [name for name in JUNK if name not in ("empty", "a directory", "records that are pipes")]
)
def test_invalid_run_directory_is_a_one_line_error(name: str, root: Path) -> None:
    requested = settings(root)
    (path,) = (p for p in (root / "runs").iterdir() if p.name.endswith(f" {name}"))
    path.rename(root / "runs" / "named")
    if name == "a pipe":
        return  # it has no config.yaml, so a new run starts there
    with pytest.raises(UserError) as caught:
        choose(requested.model_copy(update={"run": requested.run.model_copy(update={"name": "named"})}), resume=False)
    assert len(caught.value.faults) == 1


def test_run_settings_are_read_in_bounded_time(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BOMB)
    with pytest.raises(UserError, match="more than 100,000 values"):
        Run(tmp_path).settings()
