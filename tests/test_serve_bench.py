"""The serving benchmark skips failing peers, measures CPU use correctly, and keeps each server's thread settings."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.serve import __main__ as serve
from bench.serve import loads, peers, raw, table
from bench.serve.loads import Answer, Sample
from burnish.llama import Context, Model
from serve.assembly import _in_own_thread
from serve.llama.backend import LlamaBackend
from serve.llama.warmup import warm_up
from tests.support.server import small_model

ANSWERS = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), type("H", (http.server.BaseHTTPRequestHandler,), {
    "do_GET": lambda self: (self.send_response(200), self.end_headers())})).serve_forever()
"""


def test_failing_peer_is_reported_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [sys.executable, "-c", "raise ValueError('no such thing')"]
    monkeypatch.setitem(peers.PEERS, "bad", lambda load, port: bad)
    monkeypatch.setitem(peers.PEERS, "good", lambda load, port: [sys.executable, "-c", ANSWERS, str(port)])
    servers = serve.start_all(["bad", "good"], peers.Load(Path("none.gguf"), 1, 1, 256))
    try:
        assert [server.name for server in servers] == ["good"]
    finally:
        for server in servers:
            server.stop()
    output = capsys.readouterr().out.strip().splitlines()
    assert output == ["skipped: bad did not start: ValueError: no such thing"]


def test_ratios_are_computed_per_round_and_disturbed_rounds_are_flagged() -> None:
    def row(name: str, rates: list[float], others: float) -> dict[str, Any]:
        rounds = [Sample([Answer(0.0, [0.1, 0.2], 2)], 2 / rate, [0.1]).row(1.0, others) for rate in rates]
        server: Any = SimpleNamespace(name=name, memory_mib=lambda: 1.0)
        return serve.summary("new", 1, server, rounds)

    # the machine was three times as fast in the second round, so the ratio of the medians would be wrong
    ours, peer = row("burnish", [10.0, 33.0, 11.0], 0.0), row("llama-server", [10.0, 30.0, 10.0], 0.3)
    assert serve.ratios(ours, peer)["tokens_per_s"] == pytest.approx(1.1)
    assert "ratio 1.10" in serve.line(ours, [ours, peer]) and "DISTURBED" not in serve.line(ours, [ours, peer])
    assert "3 of 3 rounds DISTURBED" in serve.line(peer, [ours, peer])
    rows = [{**r, "sampling": s, "of_raw": 0.5} for s in ("greedy", "same") for r in (ours, peer)]
    sampled, greedy = table.table(rows, "burnish", "llama-server").split("\n")[2:]
    assert sampled.startswith(
        "| new * | 0.8, the same top_k, top_p, min_p | 1 | 11.0 [10.0–33.0] | 10.0 [10.0–30.0] | 1.10 |"
    )
    assert "temperature 0 |" in greedy and greedy.endswith("| 0.50; 0.50 |")


def test_each_server_keeps_its_default_thread_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # like the import of burnish.llama
    spins = {name: peers.environment(name).get("GOMP_SPINCOUNT") for name in peers.PEERS if "/" not in name}
    assert spins.pop("llama-server-spin") == "1000" and spins.pop("burnish-openmp") == peers.OPENMP_SPINS
    assert set(spins.values()) == {None}


def test_steady_load_is_measured_only_while_all_streams_run(monkeypatch: pytest.MonkeyPatch) -> None:
    came = {0: [1.0, 2.0, 3.0, 4.0], 1: [2.5, 3.5, 4.5, 5.5, 6.5]}

    async def ask(port: int, messages: Any, tokens: int, extra: dict[str, Any]) -> Answer:
        pieces = came[len(requests)]
        requests.append(extra)
        return Answer(0.0, pieces, len(pieces))

    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(loads, "ask", ask)
    model: Any = None
    extra = loads.extras("burnish", model, "same")
    server: Any = SimpleNamespace(port=0)
    sample = asyncio.run(loads.steady(server, 2, loads.Prompts(""), extra))
    # from 2.5 to 4.0: two tokens of the first stream, one of the second
    assert sample.row(1.0, 0.0)["tokens_per_s"] == pytest.approx(2.0) and sample.gaps == [1.0, 1.0]
    assert requests[0] == {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "ignore_eos": True}


def test_raw_llama_decode_is_measured_in_a_separate_process() -> None:
    with raw.RawDecode(peers.Load(small_model(), 1, 2, 256)) as decode:
        assert decode.tokens_per_s() > 0


def test_cpu_meter_separates_the_server_from_other_processes() -> None:
    code = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        servers = [peers.Running("busy", process, 0, io.BytesIO()) for process in processes]
        meter = serve.Meter(servers[0])
        time.sleep(0.6)
        server_s, others = meter.read()
        assert server_s > 0.1 and others > 0.05
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_missing_packages_are_reported_with_an_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEER_PACKAGES, "not_a_module", "not-a-package")
    with pytest.raises(peers.PeerMissing, match=r"lacks .*not-a-package.*--peer-python"):
        peers.check_packages("llama_cpp.server", sys.executable)


def test_warm_up_leaves_no_threads_behind() -> None:
    # with them, OpenMP would sleep at every barrier of the engine's thread
    with Model.open(small_model()) as model, Context(model, n_ctx=256, threads=2) as context:
        before = set(os.listdir("/proc/self/task"))
        _in_own_thread(warm_up, LlamaBackend(model, context, shared=True))
        end = time.monotonic() + 5
        while (left := set(os.listdir("/proc/self/task")) - before) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left
