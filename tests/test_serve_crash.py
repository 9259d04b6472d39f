"""A server killed by a signal prints one line; signals that ask it to stop are handled once."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from burnish.llama.amx import why_no_amx
from tests.support.commands import child_of
from tests.support.server import ServerProcess, serving
from tools import tiny_gguf


def crash_line(server: ServerProcess) -> str:
    """Return the line about the crash. It may follow the begin of another: the server was killed while it logged."""
    (line,) = re.findall(r"error: the server ended by .*", server.output)
    return str(line)


def test_crash_is_one_line_with_advice(tiny: Path) -> None:
    with serving(model=tiny, context_length=64) as server:
        os.kill(server.child, signal.SIGILL)
        assert server.process.wait(30) == 2
        server.stop()
    last = crash_line(server)
    assert last.startswith("error: the server ended by SIGILL (illegal instruction): ") and "make setup" in last


def test_model_file_truncated_while_serving_is_reported_with_advice(tmp_path: Path) -> None:
    tiny_gguf.write(path := tmp_path / "cut.gguf")
    with serving(model=path, context_length=64) as server:
        os.truncate(path, 4096)
        with suppress(http.client.HTTPException, OSError):
            server.call("POST", "/v1/completions", {"model": "default", "prompt": "x", "max_tokens": 1})
        assert server.process.wait(30) == 2
        server.stop()
    last = crash_line(server)
    assert last.startswith("error: the server ended by SIGBUS") and str(path) in last and "--mmap false" in last
    assert "Traceback" not in server.output


def test_model_read_into_memory_survives_truncation_of_its_file(tmp_path: Path) -> None:
    tiny_gguf.write(path := tmp_path / "cut.gguf")
    with serving(model=path, context_length=64, mmap="false") as server:
        os.truncate(path, 4096)
        body = {"model": "default", "prompt": "x", "max_tokens": 4}
        assert server.call("POST", "/v1/completions", body)[0] == 200
        os.kill(server.child, signal.SIGBUS)
        assert server.process.wait(30) == 2
        server.stop()
    last = crash_line(server)
    assert last.startswith("error: the server ended by SIGBUS") and "--mmap" not in last


def test_sighup_drains_like_sigterm(tiny: Path) -> None:
    with serving(model=tiny, context_length=64) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(30) == 0
        server.stop()
    assert "SIGHUP: draining" in server.output


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_ctrl_c_stops_a_starting_server(delay: float) -> None:
    """At any point: during imports, while native code loads the model, and during warm-up."""
    server = ServerProcess()
    child_of(server.process)
    time.sleep(delay)
    began = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    code = server.process.wait(20)
    assert time.monotonic() - began < 5
    server.stop()
    if "ready: " not in server.output:
        assert code in (-signal.SIGINT, 130) and "interrupted" in server.output, server.output
    assert "Traceback" not in server.output and "Exception" not in server.output


def test_version_and_log_report_amx(tiny: Path) -> None:
    with serving(model=tiny, context_length=64) as server:
        _, _, body = server.call("GET", "/version")
        assert body["amx"] is False and body["amx_why"] == (why_no_amx() or "16 of 16 weights are F16")
        assert f"AMX disabled: {body['amx_why']}" in server.output


def test_signal_to_both_processes_still_drains(tiny: Path) -> None:
    """As when systemd or `kill` signals a process group."""
    with serving(model=tiny, context_length=250, drain_timeout_s=60) as server:
        body = {"model": "default", "prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.readline().startswith(b"data: ")
        for pid in (server.child, server.process.pid):
            os.kill(pid, signal.SIGTERM)
        rest = reply.read()
        assert b'"finish_reason":"length"' in rest.replace(b" ", b"") and rest.rstrip().endswith(b"data: [DONE]")
        assert server.process.wait(60) == 0
