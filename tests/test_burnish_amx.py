"""AMX is enabled per file, and a crashed process is reported in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish import process
from burnish.llama import Model, amx, probe, quantize
from export.gguf import convert
from tests.support.commands import ROOT
from tools import tiny_gguf

F32, F16, Q8_0, BF16, Q5_0 = 0, 1, 8, 30, 6
HAS_AMX = not amx.why_no_amx()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model in several types."""
    folder = tmp_path_factory.mktemp("tiny")
    made = {"F16": folder / "tiny-F16.gguf"}
    tiny_gguf.write(made["F16"])
    for kind in ("Q8_0", "BF16", "Q4_K_M"):
        made[kind] = folder / f"tiny-{kind}.gguf"
        quantize(made["F16"], made[kind], kind)
    return made


def passes() -> str:
    return ""


def crashes() -> str:
    return "the load test ended by SIGSEGV"


@pytest.mark.parametrize(
    ("types", "test", "extra", "why"),
    [
        ({Q8_0: 8, F32: 1}, passes, True, "load test passed"),
        ({Q8_0: 8}, crashes, False, "ended by SIGSEGV"),
        ({Q8_0: 8}, None, True, "test is disabled"),
        ({F16: 9}, passes, False, "9 of 9 weights are F16"),
        ({Q8_0: 8, F16: 1}, passes, False, "1 of 9 weights are F16"),
        ({BF16: 9}, passes, False, "no weight has a type"),
        ({F32: 9}, passes, False, "no weight has a type"),
        ({Q5_0: 9}, passes, False, "no weight has a type"),
    ],
)
def test_quantized_files_use_amx_if_the_load_test_passes_and_float_files_never(
    types: dict[int, int], test: Callable[[], str] | None, extra: bool, why: str
) -> None:
    decision = amx.choose(Counter(types), test)
    assert (decision.extra, decision.amx) == (extra, extra) and why in decision.why


def test_tensor_types_are_read_from_the_header(files: dict[str, Path], tmp_path: Path) -> None:
    matrices = sum(len(shape) == 2 for shape in tiny_gguf.shapes(tiny_gguf.TINY).values())
    assert amx.weight_types(files["F16"]) == {F16: matrices}
    assert amx.weight_types(files["Q8_0"]) == {Q8_0: matrices}
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(3))
    assert not amx.weight_types(tmp_path / "bad.gguf")


def test_log_names_the_weight_buffers(files: dict[str, Path]) -> None:
    with Model.open(files["Q8_0"]) as model:
        assert model.buffers and all(size > 0 for size in model.buffers.values())
        assert model.amx == HAS_AMX and model.amx_why


@pytest.mark.skipif(not HAS_AMX, reason=f"{amx.why_no_amx()}")
def test_quantized_files_use_amx_and_float_files_do_not(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    for kind, path in files.items():
        with Model.open(path) as model:
            assert model.amx == (kind in ("Q8_0", "Q4_K_M")), (kind, model.amx_why)
        with Model.open(path, amx="off") as model:
            assert not model.amx


def test_load_test_result_is_cached_per_file(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is cached until the file changes; a real child process computes with the file."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    runs = []
    real = probe.run
    monkeypatch.setattr(probe, "run", lambda path, kind: runs.append(path) or real(path, kind))
    assert amx.tested(files["Q4_K_M"]) == amx.tested(files["Q4_K_M"]) == "" and len(runs) == 1
    os.utime(files["Q4_K_M"])
    assert amx.tested(files["Q4_K_M"]) == "" and len(runs) == 2


def test_crashed_load_test_only_disables_amx(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    die = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(die))
    for name, lasting in (("SEGV", True), ("KILL", False)):
        die.write_text(f"#!/bin/sh\nkill -{name} $$\n")
        die.chmod(0o755)
        assert probe.run(files["Q8_0"], "on") == (f"the load test ended by SIG{name}", lasting)
    die.write_text('#!/bin/sh\necho \'{"buffers": {}, "finite": false}\'\n')
    assert "not finite" in probe.run(files["Q8_0"], "on")[0]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exit code 3"),
        (143, "exit code 143"),
        (-4, "SIGILL (illegal instruction): llama.cpp does not fit this CPU"),
        (132, "SIGILL (illegal instruction)"),
        (-11, "SIGSEGV"),
        (139, "SIGSEGV"),
        (-9, "SIGKILL (killed, most likely because memory ran out): use a smaller model"),
        (137, "because memory ran out"),
        (-64, "a signal"),
    ],
)
def test_exit_reason_is_one_line_with_advice(code: int, text: str) -> None:
    assert text in process.exit_reason(code) and "\n" not in process.exit_reason(code)


def test_signal_in_a_child_process_becomes_an_export_error() -> None:
    command = [sys.executable, "-c", "import os, signal; print('half done'); os.kill(os.getpid(), signal.SIGILL)"]
    with pytest.raises(convert.GgufError, match=r"convert: failed \(ended by SIGILL .*make setup"):
        convert._child(command, lambda done, total: None, "convert")


def supervised(body: str) -> subprocess.Popen[str]:
    """Start a supervised process that runs `body` after it has printed "started"."""
    program = f"""
        import os, signal, sys, time
        from burnish.process import supervise
        supervise("the program")
        def go():
            print("started", os.getpid(), flush=True)
            {body}
        go()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGABRT", "SIGKILL"])
def test_supervised_crash_is_one_line_with_exit_code_2(name: str) -> None:
    process = supervised(f"os.kill(os.getpid(), signal.{name})")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.count("\n") == 1
    assert errors.startswith(f"error: the program ended by {name} (")


@pytest.mark.parametrize(("body", "code"), [("sys.exit(0)", 0), ("sys.exit(7)", 7), ("raise SystemExit('no')", 1)])
def test_other_exit_codes_are_passed_through(body: str, code: int) -> None:
    process = supervised(body)
    process.communicate(timeout=60)
    assert process.returncode == code


def test_signal_to_the_parent_reaches_the_child() -> None:
    process = supervised(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('set', flush=True); time.sleep(60)"
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("started") and process.stdout.readline() == "set\n"
    process.terminate()
    assert process.wait(30) == 5
    process.communicate()


def test_unhandled_signal_ends_parent_and_child() -> None:
    process = supervised("time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.communicate()


def test_child_exits_when_its_parent_is_killed() -> None:
    process = supervised("time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    assert child != process.pid
    process.kill()
    process.communicate(timeout=30)  # the pipes close when the child has ended too
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_quickstart_names_the_crashed_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish.run import RunError
    from tools import quickstart

    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunError, match=r"python -m dies: ended by SIGILL \(illegal instruction\): .*make setup"):
        quickstart.stage("dies")
