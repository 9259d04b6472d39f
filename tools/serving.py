"""Run stages and the server as a user would, for the quickstart and benchmarks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from burnish.files import last_line
from burnish.process import crashed, exit_reason
from burnish.run import RunError

START_LIMIT_S = 120


def stage(*arguments: str) -> None:
    """Run one stage as a user would; exit on failure."""
    code = subprocess.run([sys.executable, "-m", *arguments]).returncode
    if crashed(code):
        raise RunError(f"python -m {' '.join(arguments)}: {exit_reason(code)}")
    if code:
        sys.exit(code)


@contextmanager
def server(log: Path, *arguments: str) -> Iterator[str]:
    """Serve on a free port during the block, with the server's output in `log`; yield the base URL.

    Raises RunError if the server does not start.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", *arguments, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_ready(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server is ready. Raises RunError with the last line of its log if it exits."""
    for _ in range(START_LIMIT_S * 10):
        if process.poll() is not None:
            last = last_line(log.read_bytes().decode(errors="replace"))
            end = f", {exit_reason(process.returncode)}" if crashed(process.returncode) else ""
            raise RunError(f"the server exited while starting{end}: {last} (full log: {log})")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RunError(f"the server was not ready within {START_LIMIT_S} s; see its log: {log}")


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
