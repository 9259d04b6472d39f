"""The servers that bench/serve compares, each started with the same model, threads, sequences and cells.

llama-server is built from the same source archive as the runtime, so both use the same commit.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from burnish import files
from burnish.files import cache_root
from burnish.process import exit_reason
from tools.build_llama import download, pinned_version
from tools.llama_key import AMX_FLAGS, build_key

CMAKE_FLAGS = [
    *AMX_FLAGS,
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # like the runtime's native build
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",  # it is moved after the build
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
]
START_TIMEOUT_S = 120
OPENMP_SPINS = "300000"  # libgomp's default if neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is set
# modules that only llama-cpp-python's servers need, and their packages
PEER_PACKAGES = {
    "starlette_context": "starlette-context",
    "sse_starlette": "sse-starlette",
    "pydantic_settings": "pydantic-settings",
    "fastapi": "fastapi",
}


class PeerMissing(Exception):
    """A server that can't be measured; the message is one line."""


@dataclass(frozen=True)
class Load:
    """The parameters of every server: model, threads, parallel sequences, KV cells per sequence, GPU layers (-1: all).

    `python` runs llama-cpp-python's servers, which need extra packages.
    """

    model: Path
    threads: int
    clients: int
    cells_each: int
    python: str = sys.executable
    gpu_layers: int = 0


@dataclass
class Running:
    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    def check(self) -> None:
        """Raise PeerMissing if the server has exited."""
        if (code := self.process.poll()) is not None:
            raise PeerMissing(f"{self.name}: {exit_reason(code)}: {last_line(self.log)}")

    def memory_mib(self) -> float:
        """Return the server's private memory in MiB."""
        lines = [line for pid in self.pids() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")]
        kib = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
        return kib / 1024

    def cpu_s(self) -> float:
        """Return the server's CPU time in seconds."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    def pids(self) -> list[int]:
        """Return the process ids of the server and its children: our server runs in a child."""
        pid = self.process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def source_archive(work: Path) -> Path:
    """Return the unpacked source archive of the pinned runtime."""
    with tarfile.open(download(work)) as tar:
        tar.extractall(work, filter="data")
    return next(work.glob("llama_cpp_python-*/"))


def build_peers() -> Path:
    """Build llama-server once; return the directory that contains it and llama-cpp-python's example server."""
    target = cache_root() / "bench" / f"{pinned_version()}-{build_key(pinned_version(), CMAKE_FLAGS, native=True)}"
    if (target / "llama-server").is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        source = source_archive(work)
        build = work / "build"
        print("building llama-server from the runtime's source, which takes some minutes once", flush=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        vendored = str(source / "vendor" / "llama.cpp")
        subprocess.run(["cmake", "-S", vendored, "-B", str(build), *generator, *CMAKE_FLAGS], check=True)
        jobs = str(len(os.sched_getaffinity(0)))
        subprocess.run(["cmake", "--build", str(build), "--target", "llama-server", "-j", jobs], check=True)
        for library in (build / "bin").glob("*.so*"):
            shutil.copy2(library, target, follow_symlinks=True)
        shutil.copytree(source / "examples" / "server", target / "example", dirs_exist_ok=True)
        shutil.copy2(build / "bin" / "llama-server", target)
    return target


def check_packages(name: str, python: str) -> None:
    """Raise PeerMissing if this Python lacks packages of llama-cpp-python's servers."""
    code = "import importlib.util as u, sys; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    found = subprocess.run([python, "-c", code, "llama_cpp", *PEER_PACKAGES], capture_output=True, text=True)
    if found.returncode:
        raise PeerMissing(f"{name}: {python} can't be run; choose another with --peer-python")
    if missing := found.stdout.split():
        packages = " ".join(PEER_PACKAGES.get(module, module) for module in missing)
        raise PeerMissing(
            f"{name}: {python} lacks {packages}. Create another environment: python -m venv PEERS; "
            f"echo {sysconfig.get_path('purelib')} > PEERS/lib/python3.*/site-packages/here.pth; "
            f"PEERS/bin/pip install {packages}; then pass --peer-python PEERS/bin/python"
        )


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def burnish(load: Load, port: int) -> list[str]:
    """Our server, otherwise with its defaults."""
    options = {
        "model": load.model,
        "port": port,
        "threads": load.threads,
        "max_sequences": load.clients,
        "cells": load.clients * load.cells_each,
        "context_length": load.cells_each,
        "n_gpu_layers": load.gpu_layers,
        "max_waiting": 256,
        "log_level": "warning",
    }
    return [sys.executable, "-m", "serve", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


def burnish_other_layout(load: Load, port: int) -> list[str]:
    """Our server with one pool of cells instead of separate ones."""
    return [*burnish(load, port), "--layout", "unified"]


def llama_server(load: Load, port: int) -> list[str]:
    """llama.cpp's server, with one slot per client, the same total cells, and defaults otherwise."""
    options = {"-m": load.model, "--port": port, "-t": load.threads, "-np": load.clients}
    options |= {"-c": load.clients * load.cells_each, "-ngl": load.gpu_layers if load.gpu_layers >= 0 else 999}
    command = [str(build_peers() / "llama-server"), "--host", "127.0.0.1", "--no-webui"]
    return command + [str(part) for pair in options.items() for part in pair]


def llama_cpp_server(load: Load, port: int) -> list[str]:
    """llama-cpp-python's server, which runs one request at a time, so it gets one request's cells."""
    options = {"model": load.model, "port": port, "n_threads": load.threads, "n_threads_batch": load.threads}
    # otherwise the next request would cut off a running stream
    options |= {"n_ctx": load.cells_each, "host": "127.0.0.1", "interrupt_requests": "false"}
    check_packages("llama_cpp.server", load.python)
    return [load.python, "-m", "llama_cpp.server", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


def example_server(load: Load, port: int) -> list[str]:
    """llama-cpp-python's examples/server, which batches requests through the low-level API."""
    config = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {
            "alias": "default",
            "path": str(load.model),
            "n_ctx": load.clients * load.cells_each,
            "n_seq_max": load.clients,
            "threads": load.threads,
            "threads_batch": load.threads,
            "max_output_tokens": 512,
        },
    }
    file = Path(tempfile.mkdtemp()) / "config.json"
    file.write_text(json.dumps(config))
    check_packages("examples/server", load.python)
    return [load.python, str(build_peers() / "example" / "server.py"), "-C", str(file)]


PEERS: dict[str, Callable[[Load, int], list[str]]] = {
    "burnish": burnish,
    # burnish with OpenMP's default, as in llama-server, to show the effect of our setting
    "burnish-openmp": burnish,
    "burnish-unified": burnish_other_layout,
    "llama-server": llama_server,
    # llama-server with the OpenMP setting that burnish uses, to separate its effect
    "llama-server-spin": llama_server,
    "llama_cpp.server": llama_cpp_server,
    "examples/server": example_server,
}


def environment(name: str) -> dict[str, str]:
    """Return a server's environment. OpenMP spins as the server configures it, or according to the name's suffix.

    The variable is removed, because importing burnish.llama sets it in this process.
    """
    plain = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if name.endswith("-openmp"):
        return {**plain, "GOMP_SPINCOUNT": OPENMP_SPINS}
    if name.endswith("-spin"):
        return {**plain, "GOMP_SPINCOUNT": "1000"}
    if name == "examples/server":  # needs the multimodal library, which only the peers' build includes
        built = str(build_peers())
        return {**plain, "LLAMA_CPP_LIB_PATH": built, "MTMD_CPP_LIB": built}
    return plain


def start(name: str, load: Load) -> Running:
    """Start a server and wait until it is ready. Raises PeerMissing with its last output if it fails."""
    port = free_port()
    try:
        command = PEERS[name](load, port)
    except subprocess.CalledProcessError as error:
        command_text = " ".join(map(str, error.cmd[:3]))
        raise PeerMissing(f"{name}: its build failed ({command_text} ...: {exit_reason(error.returncode)})") from None
    log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the server runs)
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(name))
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        for path in ("/health/ready", "/health", "/v1/models"):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as reply:
                    if reply.status == 200:
                        return Running(name, process, port, log)
            except (urllib.error.URLError, OSError):
                pass
        time.sleep(0.2)
    process.kill()
    process.wait()
    raise PeerMissing(f"{name} did not start: {last_line(log)}")


def last_line(log: IO[bytes]) -> str:
    """Return the last line of a server's output."""
    log.seek(0)
    return files.last_line(log.read().decode(errors="replace"), "no output")[:300]
