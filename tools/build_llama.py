"""Build llama-cpp-python once and install it, with llama.cpp's own converter, into the Python that runs this.

    python tools/build_llama.py [--cpu native|v3|all] [--cuda ARCHS] [--wheel-only DIR]

The wheel is kept in the cache under a key made of the version, the build flags and this CPU's feature flags, so that a
machine builds it once and a home directory shared by two machines never mixes them. Only the standard library is used:
this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

REQUIREMENT = Path(__file__).resolve().parent.parent / "requirements" / "llama.txt"
CONVERTER_PARTS = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")
BASE_FLAGS = (
    "-DLLAVA_BUILD=OFF",  # multimodal code: nothing here uses it
    # without these every library is installed a second time, outside the package
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_LIBDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include",
)
CPU_FLAGS = {
    "native": ("-DGGML_NATIVE=ON",),
    "v3": ("-DGGML_NATIVE=OFF",),  # llama.cpp's own non-native default: AVX2, FMA, F16C, BMI2
    "all": ("-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"),
}


def pinned_version() -> str:
    """Return the version that requirements/llama.txt pins."""
    found = re.search(r"^llama-cpp-python==(\S+)", REQUIREMENT.read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"{REQUIREMENT}: no line 'llama-cpp-python==VERSION --hash=sha256:...'")
    return found.group(1)


def cpu_features() -> str:
    """Return this CPU's feature flags: a native build runs only where they are the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return "unknown"
    return next(
        (" ".join(sorted(line.split(":", 1)[1].split())) for line in lines if line.startswith("flags")), "unknown"
    )


def cache_directory(version: str, cmake_flags: list[str], native: bool) -> Path:
    """Return the directory that holds the wheel and converter of exactly this build."""
    root = os.environ.get("BURNISH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "burnish"
    )
    parts = [version, *cmake_flags, cpu_features() if native else "portable", sys.platform]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(root) / "llama" / f"{version}-{key}"


def download(directory: Path) -> Path:
    """Fetch the source archive into `directory`; pip refuses it if the pinned hash does not match."""
    print("llama.cpp: fetching the source archive (77 MB) and checking its hash", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(directory), "--requirement", str(REQUIREMENT)]
    subprocess.run(command, check=True)
    return next(directory.glob("llama_cpp_python-*.tar.gz"))


def extract_converter(archive: Path, target: Path) -> None:
    """Copy llama.cpp's converter and its gguf package out of the source archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, name = member.name.partition("/vendor/llama.cpp/")
            if found and member.isfile() and name.startswith(CONVERTER_PARTS):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                path.write_bytes(source.read())


def compile_wheel(archive: Path, target: Path, cmake_flags: list[str]) -> None:
    """Build the wheel with a line of progress; the compiler's whole output is shown only if it fails."""
    environment = {**os.environ, "CMAKE_ARGS": " ".join([os.environ.get("CMAKE_ARGS", ""), *cmake_flags]).strip()}
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", str(target), str(archive)]
    started, log, shown = time.monotonic(), [], 0.0
    with subprocess.Popen(
        command, env=environment, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            step = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            # a terminal gets a line that renews itself, a log file one line every half minute
            if step and time.monotonic() - shown > (0.5 if sys.stdout.isatty() else 30):
                shown = time.monotonic()
                text = f"llama.cpp: compiling {step[1]}/{step[2]}, {shown - started:.0f} s"
                print(
                    f"\r{text} " if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True
                )
    if process.returncode:
        sys.stdout.write("".join(log[-60:]))
        raise SystemExit(
            "llama.cpp: the build failed; its last lines are above. It needs a C++17 compiler (g++ or clang++)."
        )
    print(f"\nllama.cpp: built in {time.monotonic() - started:.0f} s", flush=True)


def build(directory: Path, cmake_flags: list[str]) -> None:
    """Fill `directory` with the wheel and converter; it appears whole or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".build-") as name:
        work = Path(name)
        archive = download(work)
        whole = work / "whole"
        extract_converter(archive, whole / "converter")
        compile_wheel(archive, whole, cmake_flags)
        try:
            os.replace(whole, directory)
        except OSError:  # another process built the same thing meanwhile
            if not directory.is_dir():
                raise


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
    parser.add_argument("--cpu", choices=sorted(CPU_FLAGS), default="native", help="which CPUs the build runs on")
    parser.add_argument("--cuda", metavar="ARCHS", help="build for CUDA, for these architectures (for example 80;90)")
    parser.add_argument(
        "--wheel-only", metavar="DIR", type=Path, help="copy wheel and converter to DIR, install nothing"
    )
    options = parser.parse_args()
    flags = [*BASE_FLAGS, *CPU_FLAGS[options.cpu]]
    if options.cuda:
        flags += ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={options.cuda}", "-DGGML_CUDA_NCCL=OFF"]
    version = pinned_version()
    directory = cache_directory(version, flags, native=options.cpu == "native")
    if directory.is_dir():
        print(f"llama.cpp: {version} for this CPU is already built")
    else:
        build(directory, flags)
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
