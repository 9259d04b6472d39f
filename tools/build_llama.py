"""Build llama-cpp-python once and install it, with llama.cpp's converter, into the current Python environment.

    python tools/build_llama.py [--cpu native|v3|all] [--cuda ARCHS] [--wheel-only DIR]

The wheel is cached under a key derived from everything that affects it (tools/llama_key.py): a machine builds it once,
and machines that share a home directory never mix builds. A native build is tested on this CPU before it is cached
(tools/selftest_llama.py); if it fails, the next slower one is built, and that choice is remembered. This uses only the
standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tools.llama_key import AMX_FLAGS, build_key, cpu_features  # noqa: E402

REQUIREMENT = ROOT / "requirements" / "llama.txt"
SELFTEST = ROOT / "tools" / "selftest_llama.py"
SELFTEST_LIMIT_S = 300
# signals caused by a build unsuitable for this CPU; others were sent on purpose
CRASHES = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGTRAP")
CONVERTER_PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")
BASE_FLAGS = (
    *AMX_FLAGS,
    "-DLLAVA_BUILD=OFF",  # multimodal code, not used
    # otherwise every library is installed a second time, outside the package
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include",
)
CPU_FLAGS = {
    "native": ("-DGGML_NATIVE=ON",),
    "v3": ("-DGGML_NATIVE=OFF",),  # llama.cpp's non-native default: AVX2, FMA, F16C, BMI2
    "all": ("-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"),
}


def pinned_version() -> str:
    """Return the version pinned in requirements/llama.txt."""
    found = re.search(r"^llama-cpp-python==(\S+)", REQUIREMENT.read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"{REQUIREMENT}: expected a line 'llama-cpp-python==VERSION --hash=sha256:...'")
    return found.group(1)


@dataclass(frozen=True)
class Choice:
    """A build variant: CMake flags, name in messages, and whether it is native and so tested on this CPU."""

    name: str
    flags: tuple[str, ...]
    native: bool = False


def choices(cpu: str, cuda: str | None) -> list[Choice]:
    """Return the builds to try, fastest first: a single portable one, or a native one and slower fallbacks."""
    more = ("-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={cuda}", "-DGGML_CUDA_NCCL=OFF") if cuda else ()
    if cpu != "native":
        return [Choice(cpu, (*BASE_FLAGS, *CPU_FLAGS[cpu], *more))]
    native = (*BASE_FLAGS, *CPU_FLAGS["native"], *more)
    found = [Choice("native", native, True)]
    if "amx_int8" in cpu_features().split():
        found.append(Choice("native without AMX", (*native, "-DBURNISH_NO_AMX=ON"), True))
    return [*found, Choice("AVX2", (*BASE_FLAGS, *CPU_FLAGS["v3"], *more), True)]


def cache_directory(version: str, cmake_flags: Sequence[str], native: bool) -> Path:
    """Return the cache directory for the wheel and converter of exactly this build."""
    root = os.environ.get("BURNISH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "burnish"
    )
    return Path(root) / "llama" / f"{version}-{build_key(version, cmake_flags, native)}"


def download(directory: Path) -> Path:
    """Download the source archive into `directory`; pip checks the pinned hash."""
    print("llama.cpp: downloading the source archive (77 MB) and checking its hash", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(directory), "--requirement", str(REQUIREMENT)]
    subprocess.run(command, check=True)
    return next(directory.glob("llama_cpp_python-*.tar.gz"))


def extract_converter(archive: Path, target: Path) -> None:
    """Extract llama.cpp's converter and its gguf package from the source archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, name = member.name.partition("/vendor/llama.cpp/")
            if found and member.isfile() and name.startswith(CONVERTER_PARTS):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                path.write_bytes(source.read())


def cmake_args(cmake_flags: Sequence[str]) -> str:
    """Return CMAKE_ARGS: the caller's, then ours; scikit-build-core splits it like a shell."""
    ours = [shlex.quote(flag) if re.search(r"[\s'\"\\]", flag) else flag for flag in cmake_flags]
    return " ".join([os.environ.get("CMAKE_ARGS", ""), *ours]).strip()


def compile_wheel(archive: Path, target: Path, cmake_flags: Sequence[str]) -> None:
    """Build the wheel with a progress line; show the end of the compiler's output only on failure."""
    environment = {**os.environ, "CMAKE_ARGS": cmake_args(cmake_flags)}
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", str(target), str(archive)]
    started, log, shown = time.monotonic(), [], 0.0
    with subprocess.Popen(
        command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            step = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            # on a terminal one line is updated in place; a log file gets a line every half minute
            if step and time.monotonic() - shown > (0.5 if sys.stdout.isatty() else 30):
                shown = time.monotonic()
                text = f"llama.cpp: compiling {step[1]}/{step[2]}, {shown - started:.0f} s"
                print(
                    f"\r{text} " if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True
                )
    if process.returncode:
        sys.stdout.write("".join(log[-60:]))
        raise SystemExit(
            "llama.cpp: the build failed; its last lines are above. A C++17 compiler is required (g++ or clang++)."
        )
    print(f"\nllama.cpp: built in {time.monotonic() - started:.0f} s", flush=True)


def fault(directory: Path, cuda: bool) -> str | None:
    """Test the wheel in a child process; return a one-line error, or None.

    Raises SystemExit if the test itself can't run.
    """
    if cuda and not _has_driver():
        print("llama.cpp: not tested: this machine has no NVIDIA driver", flush=True)
        return None
    with tempfile.TemporaryDirectory(dir=directory.parent) as site:
        with zipfile.ZipFile(next(directory.glob("llama_cpp_python-*.whl"))) as wheel:
            wheel.extractall(site)
        environment = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
        command = [sys.executable, "-I", str(SELFTEST), site]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=SELFTEST_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return f"no result within {SELFTEST_LIMIT_S} s"
    lines = done.stdout.strip().split("\n")
    step = next((line.removeprefix("step ") for line in reversed(lines) if line.startswith("step ")), "starting")
    if done.returncode < 0 and (name := signal.Signals(-done.returncode).name) in CRASHES:
        return f"{name} ({signal.strsignal(-done.returncode)}) at: {step}"
    if done.returncode == 0 and lines[-1:] == ["passed"]:
        return None
    wrong = next((line.removeprefix("wrong ") for line in lines if line.startswith("wrong ")), None)
    if wrong is None or done.returncode != 1:
        last = done.stderr.strip().rpartition("\n")[2] or "no output"
        raise SystemExit(f"llama.cpp: its test failed to run (exit code {done.returncode}, at: {step}): {last}")
    return wrong


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def build(directory: Path, choice: Choice) -> str | None:
    """Create `directory` with the wheel and converter, atomically.

    Return the error if the build fails its test; such a build is not kept.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".build-") as name:
        work = Path(name)
        archive = download(work)
        whole = work / "whole"
        extract_converter(archive, whole / "converter")
        compile_wheel(archive, whole, choice.flags)
        if choice.native and (wrong := fault(whole, "-DGGML_CUDA=ON" in choice.flags)):
            return wrong
        try:
            os.replace(whole, directory)
        except OSError:  # another process has completed the same build in the meantime
            if not directory.is_dir():
                raise
    return None


def ready(version: str, tries: Sequence[Choice]) -> Path:
    """Return the directory of the first build that passes its test; failed ones are not built again."""
    failed = []
    for choice in tries:
        directory = cache_directory(version, choice.flags, choice.native)
        note = directory.with_name(directory.name + ".failed")
        if directory.is_dir():
            print(f"llama.cpp: using the existing build of {version}" + (f" ({choice.name})" if failed else ""))
            return directory
        if not note.is_file():
            wrong = build(directory, choice)
            if wrong is None:
                return directory
            note.write_text(wrong + "\n")
        wrong = note.read_text().strip()
        failed.append(f"{choice.name}: {wrong}")
        following = f"; trying {tries[len(failed)].name}" if len(failed) < len(tries) else ""
        print(f"llama.cpp: the {choice.name} build fails its test on this CPU: {wrong}{following}", flush=True)
    raise SystemExit(
        f"llama.cpp: no build works on this CPU ({'; '.join(failed)}). Try another compiler with "
        f"CC=... CXX=... make setup, or remove {note.parent}/*.failed to try the same builds again."
    )


def install(directory: Path, version: str) -> None:
    """Install the wheel and put the converter under this environment's share/burnish/llama.cpp."""
    wheel = next(directory.glob("llama_cpp_python-*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)], check=True
    )
    target = Path(sys.prefix) / "share" / "burnish" / "llama.cpp"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(directory / "converter", target)
    (target / "VERSION").write_text(f"llama-cpp-python {version}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cpu", choices=sorted(CPU_FLAGS), default="native", help="CPUs that the build supports")
    parser.add_argument("--cuda", metavar="ARCHS", help="build for CUDA with these architectures (for example 80;90)")
    parser.add_argument(
        "--wheel-only", metavar="DIR", type=Path, help="copy wheel and converter to DIR, install nothing"
    )
    options = parser.parse_args()
    version = pinned_version()
    directory = ready(version, choices(options.cpu, options.cuda))
    if options.wheel_only:
        shutil.copytree(directory, options.wheel_only, dirs_exist_ok=True)
    else:
        install(directory, version)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"llama.cpp: '{' '.join(map(str, error.cmd[:4]))} ...' failed with exit code {error.returncode}"
        ) from None
