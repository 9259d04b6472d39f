"""The soak test's server: starts, queries and measures it, and reads its log."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

START_TIMEOUT_S, STOP_TIMEOUT_S = 300, 60
SETTINGS = {
    "port": 0, "context_length": 512, "max_sequences": 8, "max_waiting": 256, "header_timeout_s": 2,
    "body_timeout_s": 2, "idle_timeout_s": 2, "send_timeout_s": 10, "max_connections": 300,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A measurement of the server process."""

    rss_mib: float
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.rss_mib:.0f} MiB, {self.files} files, {self.threads} threads"


class Server:
    """`python -m serve` on a free loopback port for the duration of the block."""

    def __init__(self, model: Path, log: Path) -> None:
        self.log = log
        words = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serve", "--model", str(model), *words], stderr=file, stdout=file
            )
        self.port = 0

    def __enter__(self) -> Self:
        end = time.monotonic() + START_TIMEOUT_S
        while not (found := re.search(r"ready: http://\S+?:(\d+)/v1", self.output())):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"error: the server did not start:\n{self.output()}")
            time.sleep(0.1)
        self.port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def output(self) -> str:
        """Return the server's log."""
        return self.log.read_text(errors="replace")

    def logged_faults(self) -> list[str]:
        """Return the log lines that report server errors."""
        lines = (
            line for line in self.output().split("\n") if "Traceback" in line or '"event": "internal error"' in line
        )
        return [line[:2000] for line in lines][:20]

    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def get(self, path: str, timeout: float = 60) -> tuple[int, bytes]:
        """Return a page's status and body."""
        return self._call("GET", path, None, timeout)

    def ask(self, body: dict[str, Any], timeout: float = 300) -> tuple[int, dict[str, Any]]:
        """Return the reply to a completion request."""
        status, data = self._call("POST", "/v1/completions", json.dumps(body), timeout)
        return status, json.loads(data)

    def _call(self, method: str, path: str, body: str | None, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def settle(self, seconds: float = 20.0) -> None:
        """Wait at most `seconds` until no sequence runs or waits, then until connections have timed out."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            found = dict(re.findall(r"^(burnish_\w+) (\S+)$", self.get("/metrics")[1].decode(), re.MULTILINE))
            if not float(found["burnish_sequences_running"]) + float(found["burnish_queue_depth"]):
                break
            time.sleep(0.2)
        time.sleep(6.0)  # for idle and lingering connections to close

    def sample(self) -> Sample:
        """Measure the serving process, a child of the started one; return zeros if it has exited."""
        try:
            pid = self.process.pid
            child = Path("/proc", Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            status = dict(re.findall(r"^(\w+):\s+(\d+)", (child / "status").read_text(), re.MULTILINE))
            return Sample(int(status["VmRSS"]) / 1024, len(list((child / "fd").iterdir())), int(status["Threads"]))
        except (OSError, IndexError, KeyError):
            return Sample(0, 0, 0)
