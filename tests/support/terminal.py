"""Runs a command on its own terminal, like a user: reads its output, types, presses Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

CTRL_C = "\x03"


class Terminal:
    """A process with a new terminal as stdin, stdout and stderr; `output` is its output so far."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self.output = ""
        self.code: int | None = None
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored if the tests run in a shell's background
            os.chdir(cwd)
            os.execvpe(command[0], list(command), dict(environment))

    def press(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for(self, text: str, limit_s: float = 60) -> None:
        """Read until a text is printed."""
        self.wait_until(lambda: text in self.output, limit_s)

    def wait_until(self, holds: Callable[[], bool], limit_s: float = 60) -> None:
        """Read until a condition holds."""
        end = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < end, self.output
            assert self._read(0.05) or holds(), f"it ended before: {self.output}"

    def wait(self, limit_s: float = 60) -> int:
        """Read to the end; return the exit code, -n if signal n killed it."""
        end = time.monotonic() + limit_s
        while self._read(1.0):
            assert time.monotonic() < end, self.output
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def close(self) -> None:
        """Close the terminal, which ends processes still running on it."""
        os.close(self._file)
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        """Read output for some seconds; False at the end."""
        if not select.select([self._file], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._file, 65_536)
        except OSError:  # how Linux reports the end of a terminal
            return False
        self.output += piece.decode(errors="replace")
        return bool(piece)


@contextmanager
def terminal(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Run a command on a terminal for the duration of the `with` block."""
    made = Terminal(command, cwd, environment)
    try:
        yield made
    finally:
        made.close()
