"""Building llama.cpp: the tile configuration is complete, cache keys differ, and a crashing build is not kept."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.commands import ROOT
from tools import build_llama, llama_key, selftest_llama, tiny_gguf

HEADER = ROOT / "deploy" / "amx_tile_config.h"
HAS_AMX = {"amx_int8", "amx_tile"} <= set(llama_key.cpu_features().split())
# fills the configuration like llama.cpp (ggml-cpu/amx/mmq.cpp, ggml_tile_config_init), with searchable 0x5b rows
TILES = """
#include <immintrin.h>
#include <string.h>
struct tile_config { unsigned char palette, start, reserved[14]; unsigned short columns[16]; unsigned char rows[16]; };
void configure(void) {
    struct tile_config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) { c.columns[i] = 64; c.rows[i] = 0x5b; }
    _tile_loadconfig(&c);
}
"""
ROWS = re.compile(r"6582955728264977243|0x5b5b5b5b5b5b5b5b|1532713819")  # 8 or 4 bytes of 0x5b
gcc = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("gcc") is None, reason="GCC for x86-64 is not on this machine"
)


def compiled(compiler: str, source: str, language: str, *flags: str) -> str:
    """Return the assembly code."""
    command = [compiler, "-x", language, "-O3", "-Wall", "-Wextra", "-Werror", *flags, "-S", "-o", "-", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@gcc
@pytest.mark.parametrize(("compiler", "language"), [("gcc", "c"), ("g++", "c++")])
def test_amx_header_keeps_all_tile_configuration_stores(compiler: str, language: str) -> None:
    flags = ("-mamx-tile", "-mamx-int8")
    version = int(subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True).stdout.split(".")[0])
    if version in (11, 12):  # the compiler has the bug, otherwise this test would prove nothing
        assert not ROWS.search(compiled(compiler, TILES, language, *flags))
    fixed = compiled(compiler, TILES, language, *flags, f"-include{HEADER}")
    assert ROWS.search(fixed) and fixed.count("ldtilecfg") == 1


@gcc
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_amx_header_does_not_change_other_files(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not on this machine")
    source = "int f(void);\nint f(void) { return 1; }\n"
    plain = subprocess.run([compiler, "-E", "-P", "-x", "c", "-"], input=source, capture_output=True, text=True)
    command = [compiler, "-E", "-P", f"-include{HEADER}", "-x", "c", "-"]
    assert subprocess.run(command, input=source, capture_output=True, text=True).stdout == plain.stdout


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not on this machine")
@pytest.mark.parametrize("without_amx", [False, True])
def test_cmake_includes_the_header_from_a_path_with_spaces(tmp_path: Path, without_amx: bool) -> None:
    """The user's flags are kept."""
    parts, source = tmp_path / "a folder", tmp_path / "source"
    shutil.copytree(ROOT / "deploy", parts)
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        'cmake_minimum_required(VERSION 3.21)\nproject("ggml" C CXX)\nadd_library(x STATIC a.c b.cpp)\n'
    )
    (source / "a.c").write_text("int f(void) { return 1; }\n")
    (source / "b.cpp").write_text("int g() { return 1; }\n")
    command = ["cmake", "-S", str(source), "-B", str(tmp_path / "build"), "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command += [f"-DCMAKE_PROJECT_ggml_INCLUDE={parts / 'amx.cmake'}", "-DCMAKE_CXX_FLAGS=-DMINE"]
    command += [f"-DBURNISH_NO_AMX={'ON' if without_amx else 'OFF'}"]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(tmp_path / "build")], check=True, capture_output=True)
    found = json.loads((tmp_path / "build" / "compile_commands.json").read_text())
    assert len(found) == 2
    for entry in found:
        assert "amx_tile_config.h" in entry["command"]
        assert ("-U__AMX_INT8__" in entry["command"]) == without_amx
        assert ("-DMINE" in entry["command"]) == entry["file"].endswith(".cpp")


def test_every_build_includes_the_amx_header() -> None:
    from bench.serve.peers import CMAKE_FLAGS

    for cpu in build_llama.CPU_FLAGS:
        for cuda in (None, "90"):
            for choice in build_llama.choices(cpu, cuda):
                assert set(llama_key.AMX_FLAGS) <= set(choice.flags), choice
    assert set(llama_key.AMX_FLAGS) <= set(CMAKE_FLAGS)
    toolchain = (ROOT / "Dockerfile").read_text().split(" AS toolchain\n")[1].split("\nFROM ")[0]
    kept = (ROOT / ".dockerignore").read_text().split()
    for path in llama_key.INCLUDED:
        assert str(path.relative_to(ROOT)) in toolchain and f"!{path.relative_to(ROOT)}" in kept


def test_different_builds_have_different_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in llama_key.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    flags = build_llama.choices("v3", None)[0].flags
    included, compiler = tmp_path / "mine.cmake", tmp_path / "cc"
    included.write_text("# one\n")
    compiler.write_text("#!/bin/sh\necho mine 1.0\n")
    compiler.chmod(0o755)

    def key(*more: str, native: bool = False) -> str:
        return llama_key.build_key("1.0", (*flags, *more), native)

    keys = [key(), key("-DX=1"), key(native=True), llama_key.build_key("1.1", flags, False)]
    assert key() == keys[0]
    for name, value in (("CMAKE_ARGS", f"-DY={included}"), ("CXXFLAGS", "-O1"), ("CC", str(compiler))):
        monkeypatch.setenv(name, value)
        keys.append(key())
    included.write_text("# two\n")
    keys.append(key())
    compiler.write_text("#!/bin/sh\necho mine 1.1\n")
    keys.append(key())
    header = tmp_path / "header.h"
    header.write_text("")
    monkeypatch.setattr(llama_key, "INCLUDED", (header,))
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_cmake_flags_with_spaces_are_passed_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    monkeypatch.setenv("CMAKE_ARGS", "-DMINE=1")
    flags = ["-DCMAKE_PROJECT_ggml_INCLUDE=/a b/amx.cmake", "-DCMAKE_CUDA_ARCHITECTURES=80;90"]
    assert shlex.split(build_llama.cmake_args(flags)) == ["-DMINE=1", *flags]


def fake_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, selftest: str) -> list[str]:
    """Fake the compilation but not the test: the wheel contains its flags, and a real child process reads them."""
    built: list[str] = []

    def compile_wheel(archive: Path, target: Path, flags: Sequence[str]) -> None:
        built.append(" ".join(flags))
        with zipfile.ZipFile(target / "llama_cpp_python-0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("flags.txt", " ".join(flags))

    script = tmp_path / "selftest.py"
    start = "import os, pathlib, signal, sys\nflags = pathlib.Path(sys.argv[1], 'flags.txt').read_text()\n"
    script.write_text(start + selftest)
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build_llama, "SELFTEST", script)
    monkeypatch.setattr(build_llama, "compile_wheel", compile_wheel)
    monkeypatch.setattr(build_llama, "download", lambda work: work / "archive")
    monkeypatch.setattr(build_llama, "extract_converter", lambda archive, target: target.mkdir(parents=True))
    monkeypatch.setattr(build_llama, "cpu_features", lambda: "amx_int8 avx2")
    return built


DIES_WITH_AMX = """
print("step loading the library\\nstep Q8_0", flush=True)
if "-DGGML_NATIVE=ON" in flags and "BURNISH_NO_AMX" not in flags:
    os.kill(os.getpid(), signal.SIGILL)
print("passed")
"""


def test_build_that_crashes_its_self_test_is_replaced_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = fake_build(monkeypatch, tmp_path, DIES_WITH_AMX)
    tries = build_llama.choices("native", None)
    directory = build_llama.ready("1.0", tries)
    output = capsys.readouterr().out
    assert len(built) == 2 and "BURNISH_NO_AMX" in built[1]
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        assert "BURNISH_NO_AMX" in wheel.read("flags.txt").decode()
    assert output.count("\n") == 1 and "SIGILL (Illegal instruction) at: Q8_0; trying native without AMX" in output
    assert build_llama.ready("1.0", tries) == directory and len(built) == 2
    assert "using the existing build of 1.0 (native without AMX)" in capsys.readouterr().out


WRONG_BUT_AVX2 = """
if "-DGGML_NATIVE=ON" in flags:
    print("step F16\\nwrong F16: the logits are not finite")
    sys.exit(1)
print("passed")
"""


def test_wrong_results_fall_back_to_avx2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = fake_build(monkeypatch, tmp_path, WRONG_BUT_AVX2)
    build_llama.ready("1.0", build_llama.choices("native", None))
    assert len(built) == 3 and "-DGGML_NATIVE=OFF" in built[2]


@pytest.mark.parametrize(
    ("selftest", "text"),
    [
        ("print('wrong Q8_0: bad'); sys.exit(1)", "no build works on this CPU"),
        ("raise ImportError('no tool')", "its test failed to run"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its test failed to run"),
    ],
)
def test_error_in_every_build_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selftest: str, text: str
) -> None:
    fake_build(monkeypatch, tmp_path, selftest)
    with pytest.raises(SystemExit, match=text):
        build_llama.ready("1.0", build_llama.choices("native", None))


def test_portable_builds_are_not_tested_on_the_build_machine() -> None:
    assert not any(choice.native for cpu in ("v3", "all") for choice in build_llama.choices(cpu, None))


def test_installed_build_computes_with_every_type() -> None:
    command = [sys.executable, "-I", str(build_llama.SELFTEST), sysconfig.get_path("purelib")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.endswith("passed\n"), done.stdout + done.stderr
    assert f"AMX {'available' if HAS_AMX else 'not available'}" in done.stdout
    for kind in selftest_llama.TYPES:
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{kind}: "))
        assert ("AMX" in line) == (HAS_AMX and kind not in selftest_llama.FLOATS), line


@pytest.mark.skipif(HAS_AMX, reason="tests an error that can't occur on a CPU with AMX")
def test_self_test_fails_if_amx_is_expected_but_not_used(tmp_path: Path) -> None:
    program = f"""
        import sys, pathlib
        sys.path.insert(0, {str(ROOT)!r})
        from tools import selftest_llama as test
        test.has_amx = lambda api: True
        sys.argv = ["selftest", {sysconfig.get_path("purelib")!r}, "--types", "Q8_0"]
        sys.exit(test.main())
    """
    import textwrap

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 1 and "no weights went into an AMX buffer" in done.stdout


def test_tiny_model_is_deterministic_and_a_valid_gguf(tmp_path: Path) -> None:
    from gguf import GGUFReader

    for name in ("a.gguf", "b.gguf"):
        tiny_gguf.write(tmp_path / name)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    reader = GGUFReader(tmp_path / "a.gguf")
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) == 2]
    assert matrices and all(t.shape[0] % 256 == 0 and t.shape[1] % 32 == 0 for t in matrices)
    assert os.path.getsize(tmp_path / "a.gguf") < 4e6
