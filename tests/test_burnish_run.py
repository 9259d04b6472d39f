"""Records and files are written atomically, and damaged records are reported."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from burnish import run as runs
from burnish.files import (
    FileError,
    atomic_directory,
    atomic_file,
    check_writable,
    private_directory,
    remove_partial,
    tree_sha256,
    write_atomic,
)
from burnish.records import PushRecord
from burnish.run import Run, RunError, find_run


def push_record(run_id: str = "r") -> PushRecord:
    return PushRecord(
        run_id=run_id, created=runs.now(), export_sha256="0" * 64, repo="me/model", commit="c", files=["f"]
    )


def test_record_round_trips_through_its_file(tmp_path: Path) -> None:
    Run(tmp_path).write(push_record())
    assert Run(tmp_path).read(PushRecord) == push_record()
    assert [p.name for p in tmp_path.iterdir()] == ["push.json"]


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"files": "f"}, {"repo": None}])
def test_record_with_wrong_version_or_shape_is_rejected_by_field(tmp_path: Path, change: dict[str, object]) -> None:
    content = {**push_record().model_dump(), **change}
    (tmp_path / "push.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"push.json: {next(iter(change))}"):
        Run(tmp_path).read(PushRecord)


def test_unknown_record_keys_are_kept(tmp_path: Path) -> None:
    (tmp_path / "push.json").write_text(json.dumps({**push_record().model_dump(), "later": 1}))
    assert json.loads(Run(tmp_path).read(PushRecord).model_dump_json())["later"] == 1


def test_failed_write_leaves_the_old_file_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_failed_directory_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "d") as temporary:
        (temporary / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".merged.99.partial").mkdir()
    (tmp_path / ".a.gguf.99.partial").write_text("x")
    (tmp_path / "kept").write_text("x")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_newest_run_with_the_record_is_selected(tmp_path: Path) -> None:
    for name in ("old", "new", "unfinished"):
        (tmp_path / name).mkdir()
    for day, name in (("01", "old"), ("02", "new")):
        Run(tmp_path / name).write(push_record(name).model_copy(update={"created": f"2026-01-{day}T00:00:00Z"}))
    os.utime(tmp_path / "new" / "push.json", (0, 0))  # a copy may have other timestamps
    runs.point_latest(Run(tmp_path / "old"))
    assert find_run(tmp_path, None, PushRecord).id == "new"
    assert find_run(tmp_path, "latest", PushRecord).id == "old"
    with pytest.raises(RunError, match="no run 'x' .* found: new, old, unfinished"):
        find_run(tmp_path, "x", PushRecord)
    with pytest.raises(RunError, match="'unfinished' has no push.json"):
        find_run(tmp_path, "unfinished", PushRecord)


def test_newest_of_two_runs_in_one_second_is_the_last_written(tmp_path: Path) -> None:
    for name, stamp in (("second", 9), ("first", 1)):
        (tmp_path / name).mkdir()
        Run(tmp_path / name).write(push_record(name).model_copy(update={"created": "2026-01-01T00:00:00Z"}))
        os.utime(tmp_path / name / "push.json", (stamp, stamp))
    assert find_run(tmp_path, None, PushRecord).id == "second"


def test_damaged_runs_and_future_dates_are_skipped_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, created in (("good", "2026-01-01T00:00:00Z"), ("later", "2999-01-01T00:00:00Z")):
        (tmp_path / name).mkdir()
        Run(tmp_path / name).write(push_record(name).model_copy(update={"created": created}))
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "push.json").write_text("[")
    assert find_run(tmp_path, None, PushRecord).id == "good"
    output = capsys.readouterr().err
    assert "warning: run skipped:" in output and "junk/push.json: the file is not JSON" in output
    assert "later/push.json: created: 2999-01-01 is in the future" in output
    shutil.rmtree(tmp_path / "good")
    with pytest.raises(RunError) as caught:
        find_run(tmp_path, None, PushRecord)
    assert len(caught.value.faults) == 2


def test_only_files_containing_rows_have_private_permissions(tmp_path: Path) -> None:
    os.umask(before := os.umask(0o022))
    try:
        with atomic_directory(tmp_path / "exam", private=True) as directory:
            (directory / "rows.jsonl").write_text("{}")
        write_atomic(tmp_path / "report.html", "x", private=True)
        write_atomic(tmp_path / "train.json", "{}")
        (tmp_path / "checkpoints").mkdir()
        private_directory(tmp_path / "checkpoints")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert modes == {
        "exam": 0o700, "rows.jsonl": 0o600, "report.html": 0o600, "train.json": 0o644, "checkpoints": 0o700,
    }  # fmt: skip


def test_tree_hash_changes_with_any_byte(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("1")
    before = tree_sha256(tmp_path)
    (tmp_path / "a" / "b").write_text("2")
    assert tree_sha256(tmp_path) != before


def test_unwritable_directory_and_full_disk_are_reported_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="can't be written"):
        check_writable(tmp_path / "file" / "runs", 0, "training")
    with pytest.raises(FileError, match="GB free, training needs about"):
        check_writable(tmp_path, 10**18, "training")


@pytest.mark.parametrize(
    ("base", "data", "start"),
    [("meta/Llama-3.1-8B", "data/my rows.jsonl", "Llama-3.1-8B-my-rows-"), ("/x/m.gguf", "ü.csv", "m-x-")],
)
def test_run_ids_are_safe_path_components(base: str, data: str, start: str) -> None:
    assert runs.new_id(base, data).startswith(start)
