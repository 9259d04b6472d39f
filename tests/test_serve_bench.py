"""The serving bench goes on without a peer that can't take part, and the server computes in one thread's helpers."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench import serve, serve_peers
from burnish.llama import Context, Model
from serve.backend import LlamaBackend
from serve.server import _in_own_thread
from serve.warm import warm_up
from tests.serve_process import small_model

ANSWERS = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), type("H", (http.server.BaseHTTPRequestHandler,), {
    "do_GET": lambda self: (self.send_response(200), self.end_headers())})).serve_forever()
"""


def test_a_peer_that_fails_is_named_in_one_line_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [sys.executable, "-c", "raise ValueError('no such thing')"]
    monkeypatch.setitem(serve_peers.PEERS, "bad", lambda load, port: bad)
    monkeypatch.setitem(serve_peers.PEERS, "good", lambda load, port: [sys.executable, "-c", ANSWERS, str(port)])
    servers = serve.start_all(["bad", "good"], serve_peers.Load(Path("none.gguf"), 1, 1, 256))
    try:
        assert [server.name for server in servers] == ["good"]
    finally:
        for server in servers:
            server.stop()
    said = capsys.readouterr().out.strip().splitlines()
    assert said == ["left out: bad did not start: ValueError: no such thing"]


def test_missing_packages_are_named_with_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serve_peers.PEER_PACKAGES, "not_a_module", "not-a-package")
    with pytest.raises(serve_peers.PeerMissing, match=r"lacks .*not-a-package.*--peer-python"):
        serve_peers.check_packages("llama_cpp.server", sys.executable)


def test_warming_up_leaves_no_helper_threads_behind() -> None:
    # beside them OpenMP would sleep at every barrier of the engine's own thread
    with Model.open(small_model()) as model, Context(model, n_ctx=256, threads=2) as context:
        before = set(os.listdir("/proc/self/task"))
        _in_own_thread(warm_up, LlamaBackend(model, context, frozenset(), shared=True))
        end = time.monotonic() + 5
        while (left := set(os.listdir("/proc/self/task")) - before) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left
