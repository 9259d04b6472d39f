"""Runs commands as a user does, each in its own process, and kills some of them midway."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = "tests.support.preloaded"
STAGES = ("train", "export")
# the general texts dominate a short run's time and say little about a random model, so only a few are scored
GENERAL_ROWS = 4
FEW_TEXTS = {"BURNISH_TRAIN_EXAM__GENERAL_ROWS": str(GENERAL_ROWS)}

# one process imports the stages once and every command is forked from it, because imports take up to nine seconds
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([PRELOADED])


class Started(Protocol):
    """A process that can be waited for and killed."""

    pid: int

    def wait(self, timeout: float | None = None) -> int: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class Fork:
    """A command in a fork of the preloaded process."""

    process: multiprocessing.context.ForkServerProcess
    words: Sequence[str]

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command to exit and return the exit code. Raises subprocess.TimeoutExpired."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(list(self.words), timeout or 0)
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def _command(words: Sequence[str], environment: Mapping[str, str], out: str, err: str) -> None:
    """Run as `python -m WORDS` in the fork, with output to files."""
    assert PRELOADED in sys.modules, "the stages are not imported yet, so this fork saves no time"
    for number, path in ((1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, number)
        os.close(target)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.BufferedWriter(io.FileIO(n, "w", closefd=False)), "utf-8") for n in (1, 2)
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    from burnish.errors import run_edge

    stage, *arguments = words
    sys.argv = [stage, *arguments]
    run_edge(sys.modules[f"{stage}.__main__"].main)


def own_environment(more: Mapping[str, str] = {}) -> dict[str, str]:
    """Return this process's environment; of the BURNISH_ variables, only the cache, FEW_TEXTS and the given ones."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("BURNISH_") or k == "BURNISH_CACHE"}
    return {**clean, **FEW_TEXTS, **more}


def fork(words: Sequence[str], out: str = os.devnull, err: str = os.devnull) -> Fork:
    """Start a stage's command in a fork."""
    process = _FORKS.Process(target=_command, args=(list(words), own_environment(), out, err))
    process.start()
    return Fork(process, words)


class Cli:
    """Run `python -m ARGUMENTS` from the project's root, with only FEW_TEXTS and the given BURNISH_ variables.

    The train and export commands run in forks of a process that has imported them. Commands given variables, which
    libraries read on import, run in a new interpreter, as with `fresh`.
    """

    def __call__(self, *arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        if environment or arguments[0] not in STAGES:
            return self.fresh(*arguments, timeout=timeout, **environment)
        with tempfile.TemporaryDirectory() as directory:
            out, err = Path(directory, "out"), Path(directory, "err")
            started = fork(arguments, str(out), str(err))
            try:
                code = started.wait(timeout)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
                raise
            output = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess(list(arguments), code, *output)

    def fresh(self, *arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command in a new interpreter, as a user does, with its own imports, seeds and hashes."""
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=own_environment(environment),
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip


def start_fresh(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a new interpreter; discard its output."""
    words = [sys.executable, "-m", *command]
    silent = subprocess.DEVNULL
    return subprocess.Popen(words, cwd=ROOT, env=own_environment(), stdout=silent, stderr=silent)


def kill_at(command: Sequence[str], seconds: float) -> None:
    """Start a command and kill it with SIGKILL after some seconds, if it is still running."""
    process = fork(command)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


Start = Callable[[Sequence[str]], Started]


def kill_after(command: Sequence[str], appears: Path, start: Start = fork, limit_s: float = 600) -> None:
    """Start a command and kill it with SIGKILL as soon as a path exists."""
    process = start(command)
    deadline = time.monotonic() + limit_s
    try:
        while not appears.exists():
            assert process.poll() is None, "it exited before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_of(process: subprocess.Popen[str]) -> int:
    """Wait for a process to start a child, and return the child's id."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            return int(found[0])
        time.sleep(0.005)
    raise AssertionError("no child")
