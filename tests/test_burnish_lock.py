"""Two processes never work on one run: the second reports the holder, and a dead process releases the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish import lock
from burnish.bases.base import Base
from burnish.data.files import DataError
from burnish.run import RunError
from tests.support.commands import ROOT
from train.__main__ import main
from train.resume import settle_name
from train.settings import TrainSettings

HOLD = (
    "import sys; from pathlib import Path; from burnish import lock\n"
    "with lock.hold(Path(sys.argv[1]), 'training'): print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "persona"


def test_lock_error_names_the_holder_and_its_start_time(run: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for refused in (lambda: lock.check(run), lambda: lock.hold(run, "an export").__enter__()):
            with pytest.raises(RunError) as caught:
                refused()
            assert re.fullmatch(
                rf"run 'persona': training has been working on it since 2\S+Z, as process {holder.pid}: wait until .*",
                str(caught.value),
            )
        holder.kill()  # SIGKILL, as sent by the kernel
        holder.wait()
    lock.check(run)
    with lock.hold(run, "an export"):
        assert f'"pid": {os.getpid()}' in (run / lock.LOCK).read_text()


def test_child_process_does_not_keep_the_lock(run: Path) -> None:
    with lock.hold(run, "training"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock.check(run)
    child.communicate(b"\n")


def test_new_run_is_not_locked(run: Path) -> None:
    lock.check(run)
    assert not run.exists()


def test_file_system_without_locks_causes_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with lock.hold(run, "training"):
        pass
    assert "can't be locked (No locks available)" in capsys.readouterr().err


def test_training_a_locked_run_fails_before_reading_data(run: Path) -> None:
    words = ["run", "--base.id", "x", "--data.path", "nowhere", "--run.root", str(run.parent), "--run.name", run.name]
    with lock.hold(run, "an export"), pytest.raises(RunError, match="an export has been working on it since"):
        main(words)
    with pytest.raises(DataError, match="nowhere: no such file"):
        main(words)


def test_run_is_named_before_it_is_locked() -> None:
    settings = TrainSettings.model_validate({"base": {"id": "x"}, "data": {"path": "my rows.jsonl"}})
    prepared = SimpleNamespace(base=Base("me/The-Base-F16", None, Path("."), ""))
    name = settle_name(settings, prepared).run.name  # type: ignore[arg-type]
    assert name is not None
    assert name.startswith("The-Base-my-rows-2")


def test_lock_check_needs_no_write_permission(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS grants an exclusive lock only on a file opened for writing."""
    kinds: list[int] = []
    with lock.hold(run, "training"):
        pass
    monkeypatch.setattr("fcntl.flock", lambda file, kind: kinds.append(kind))
    lock.check(run)
    assert kinds == [fcntl.LOCK_SH | fcntl.LOCK_NB]


def test_run_can_start_while_its_lock_is_checked(run: Path) -> None:
    with lock.hold(run, "training"):
        pass
    look = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(1, flush=True);"
        " time.sleep(0.2)"
    )
    with subprocess.Popen([sys.executable, "-c", look, str(run / lock.LOCK)], stdout=subprocess.PIPE) as looker:
        assert looker.stdout is not None
        looker.stdout.readline()
        with lock.hold(run, "training"):
            pass
