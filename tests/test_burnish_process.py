"""A stage ended by a signal is reported in one line, and a terminal's Ctrl-C reaches it once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import ROOT, child_of

COUNTS = """
import signal, sys, time
from burnish.process import supervise
supervise("the program")
signal.signal(signal.SIGINT, lambda *_: print("told", flush=True))
print("ready", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    time.sleep(0.5)
    if sys.stdin.readline() == "enough\\n":
        sys.exit(7)
"""


@pytest.mark.parametrize(
    ("stage", "name", "message"),
    [
        ("train", "SIGSEGV", "error: training ended by SIGSEGV (a read or write outside its memory)\n"),
        ("train", "SIGKILL", "error: training ended by SIGKILL (killed, most likely because memory ran out): use a"),
        ("export", "SIGILL", "error: the export ended by SIGILL (illegal instruction): llama.cpp does not fit"),
    ],
)
def test_crashed_stage_is_one_line_with_exit_code_2(stage: str, name: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", stage, "run", "--run.root", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    os.kill(child_of(process), signal.Signals[name])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.startswith(message) and errors.count("\n") == 1


@pytest.mark.parametrize("stage", ["train", "export"])
@pytest.mark.parametrize("delay", [0.0, 0.5, 2.0])
def test_ctrl_c_during_imports_is_one_line(stage: str, delay: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", stage, "run", "--run.root", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    child_of(process)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    # by then it may have reported a missing run or two missing settings
    others = [line for line in errors.splitlines() if not line.startswith("error: ")]
    assert "Traceback" not in errors and len(others) <= 2, errors
    assert "interrupted" in errors or "error: " in errors


def test_ctrl_c_on_a_terminal_reaches_the_child_once() -> None:
    """The terminal signals parent and child, so the parent must not forward it."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", COUNTS])
    output = b""
    try:
        while b"ready" not in output:
            output += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"told" not in output:
            output += os.read(terminal, 1000)
        time.sleep(0.5)  # a second one would have arrived by now
        os.write(terminal, b"enough\n")
        while True:
            output += os.read(terminal, 1000)
    except OSError:  # the terminal closes with the last process on it
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert output.count(b"told") == 1
