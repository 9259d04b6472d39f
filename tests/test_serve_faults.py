"""Real-world failures: clients that disconnect or don't read, full queues, signals, damaged files."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess, serving, small_model


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(max_sequences=8, max_waiting=400) as running:
        yield running


def send(server: ServerProcess, **fields: Any) -> socket.socket:
    """Send a chat request and return the open connection."""
    messages = [{"role": "user", "content": f"Tell me a long story about {random.random()}."}]
    body = json.dumps({"model": "default", "messages": messages, "max_tokens": 200, "ignore_eos": True, **fields})
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_client_frees_its_slot_within_one_step(server: ServerProcess, stream: bool) -> None:
    connection = send(server, stream=stream, max_tokens=400)
    server.wait_running()
    before = server.metric("burnish_generated_tokens_total")
    connection.close()
    server.wait_idle()
    assert server.metric("burnish_generated_tokens_total") - before < 100


@pytest.mark.slow
def test_random_disconnects_leave_no_slots_or_cells_in_use(server: ServerProcess) -> None:
    rng = random.Random(7)

    def one(number: int) -> bool:
        if number % 2:
            connection = send(server, stream=bool(number % 4 == 1), max_tokens=30)
            time.sleep(rng.random() * 0.5)
            connection.close()
            return True
        status, _, reply = server.chat(f"Say the number {number}.", max_tokens=6)
        return status == 200 and reply["choices"][0]["finish_reason"] in ("stop", "length")

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(200)))
    server.wait_idle()
    assert server.call("GET", "/health/ready")[0] == 200


def test_slow_reader_does_not_delay_others(server: ServerProcess) -> None:
    slow = send(server, stream=True, max_tokens=300)  # and nobody reads from it
    began = time.monotonic()
    status, _, _ = server.chat("What is the capital of Italy?", max_tokens=8)
    assert status == 200 and time.monotonic() - began < 20
    slow.close()
    server.wait_idle()


def test_full_queue_returns_429_with_retry_after() -> None:
    with serving(max_sequences=1, max_waiting=2) as small:
        held = [send(small, stream=True, max_tokens=300) for _ in range(3)]
        small.wait_running(3, waiting=True)
        status, headers, reply = small.chat("x", max_tokens=1)
        assert status == 429 and int(headers["retry-after"]) >= 1
        assert reply["error"]["code"] == "rate_limit_exceeded"
        for connection in held:
            connection.close()
        small.wait_idle()
        assert small.chat("x", max_tokens=1)[0] == 200


def test_request_over_the_time_limit_is_ended() -> None:
    with serving(request_timeout_s=0.5) as small:
        status, _, reply = small.chat("Tell a story.", max_tokens=450, ignore_eos=True)
        assert status == 504 and reply["error"]["code"] == "timeout"
        _, _, body = small.chat("Tell a story.", max_tokens=450, ignore_eos=True, stream=True)
        events = body.decode().strip().split("\n\n")
        assert events[-1] == "data: [DONE]" and json.loads(events[-2][6:])["error"]["code"] == "timeout"
        small.wait_idle(5)


@pytest.mark.slow
def test_waiting_stream_gets_keep_alive_comments() -> None:
    with serving(max_sequences=1, keep_alive_s=0.1) as small:
        first = send(small, stream=True, max_tokens=150)
        small.wait_running()
        _, _, body = small.chat("x", max_tokens=1, stream=True)
        assert b": keep-alive\n\n" in body and body.endswith(b"data: [DONE]\n\n")
        first.close()


@pytest.mark.slow
def test_sigterm_finishes_answers_and_rejects_new_requests() -> None:
    server = ServerProcess().wait_ready()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.chat, f"Tell story {i}.", max_tokens=60, ignore_eos=True) for i in range(4)]
        server.wait_running(4)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 5
        while server.call("GET", "/health/ready")[0] != 503:
            assert time.monotonic() < end
        status, headers, _ = server.chat("too late", max_tokens=1)
        assert status == 503 and "retry-after" in headers
        replies = [answer.result() for answer in answers]
    assert [reply["usage"]["completion_tokens"] for _, _, reply in replies] == [60] * 4
    assert server.process.wait(30) == 0, server.output


def test_drain_timeout_is_not_exceeded() -> None:
    server = ServerProcess(drain_timeout_s=0.3).wait_ready()
    connection = send(server, stream=True, max_tokens=450)
    server.wait_running()
    server.process.send_signal(signal.SIGTERM)
    data = b""
    while part := connection.recv(65536):
        data += part
    assert b'"error"' in data and b"data: [DONE]" in data
    assert server.process.wait(15) == 0, server.output


@pytest.mark.slow
def test_running_out_of_cells_preempts_and_every_answer_completes() -> None:
    with serving(layout="unified", cells=512, max_sequences=6, context_length=400) as small:
        questions = [f"Tell me a story about the number {i}." for i in range(6)]
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda q: small.chat(q, max_tokens=120, ignore_eos=True), questions))
        assert [status for status, _, _ in replies] == [200] * 6
        assert [reply["usage"]["completion_tokens"] for _, _, reply in replies] == [120] * 6
        assert small.metric("burnish_preemptions_total") > 0
        alone = [small.chat(q, max_tokens=120, ignore_eos=True)[2] for q in questions[:2]]
        for single, (_, _, reply) in zip(alone, replies, strict=False):
            text, whole = single["choices"][0]["message"]["content"], reply["choices"][0]["message"]["content"]
            assert text[:20] == whole[:20] and "\ufffd" not in whole


def test_full_context_ends_an_answer_with_length(server: ServerProcess) -> None:
    status, _, reply = server.chat("word " * 450, max_tokens=5000, ignore_eos=True)
    assert status == 200 and reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["total_tokens"] == 512


def test_deleting_or_replacing_the_model_file_does_not_affect_serving(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copy(small_model(), model)
    with serving(model=model) as running:
        before = running.chat("What is the capital of Italy?", max_tokens=8)[2]["choices"]
        model.unlink()
        assert running.chat("What is the capital of Italy?", max_tokens=8)[2]["choices"] == before


def test_files_that_are_not_models_are_one_line_errors(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(small_model().read_bytes()[:30_000_000])
    (tmp_path / "text.gguf").write_text("hello")
    for name, text in {
        "cut.gguf": "corrupted or incomplete",
        "text.gguf": "not a GGUF",
        "none.gguf": "no such file",
    }.items():
        server = ServerProcess(model=tmp_path / name)
        assert server.process.wait(60) == 2
        server.stop()
        assert text in server.output and "Traceback" not in server.output


def test_port_in_use_is_reported_before_the_model_is_loaded(server: ServerProcess) -> None:
    second = ServerProcess(port=server.port)
    assert second.process.wait(60) == 2
    second.stop()
    assert "in use" in second.output and "loading" not in second.output


def test_many_client_threads_get_complete_answers(server: ServerProcess) -> None:
    results: list[int] = []

    def ask() -> None:
        results.append(server.chat("Say yes.", max_tokens=2)[0])

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 60
