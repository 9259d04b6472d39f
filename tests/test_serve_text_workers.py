"""Hostile templates and texts while serving: each affects only its own request."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from burnish.chat import ChatError, ChatTemplate
from burnish.llama import Model
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat
from serve.engine.tokenizer import PromptTooLong, TextUnavailable
from serve.llama.text import frames
from serve.llama.text.pool import TextFailed, TextWorkers
from serve.llama.tokenizer import LlamaTokenizer
from tests.support.commands import ROOT
from tests.support.hostile_templates import HOSTILE
from tests.support.server import ServerProcess, serving
from tests.support.tool_templates import TEMPLATES
from tools import tiny_gguf

LIMIT_S = 1.5
# the template for ordinary messages; other messages select an error by name
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% if m.content == 'hang' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    "{% elif m.content == 'bomb' %}{{ 'x' * 10 ** 10 }}{% elif m.content == 'fail' %}{{ 1 / 0 }}"
    "{% elif m.content == 'long' %}{{ 'x' * 5 * 10 ** 6 }}{% elif m.content == 'pages' %}{{ 'xy ' * 10 ** 6 }}"
    "{% elif m.content == 'sum' %}{{ ([[0] * 1000] * 99999) | map('list') | list | length }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HOARDER = """
import socket, sys
from serve.llama.text import frames, worker

class Hoarder:
    kept = []

    def answer(self, request):
        self.kept.append(b"x" * request["bytes"])
        return frames.ids([])

worker.serve(socket.socket(fileno=int(sys.argv[1])), Hoarder(), 5)
"""
USUAL = [{"role": "user", "content": "Who are you? <|im_end|>"}]


def user_message(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def tiny(path: Path, template: str | None = TEMPLATE, pre: str = "gpt-2") -> Path:
    tiny_gguf.write(path, template=template, pre=pre)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with Model.open(path, vocab_only=True) as found:
        yield found


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Iterator[LlamaTokenizer]:
    found = LlamaTokenizer(model, chat(model).template, "text", LIMIT_S)
    assert found.wait() is None
    yield found
    found.close()


def chat(model: Model, template: str = TEMPLATE) -> Chat:
    return Chat(ChatTemplate(template, "2026-01-02"), vocabulary.from_gguf(model))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def idle(tokenizer: LlamaTokenizer) -> list[Any]:
    return list(tokenizer._workers._idle._queue)  # type: ignore[attr-defined]


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(tokenizer: LlamaTokenizer) -> list[int]:
    parent = tokenizer._workers._process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def test_worker_ids_equal_in_process_ids(tokenizer: LlamaTokenizer, model: Model) -> None:
    expected = chat(model).ids(USUAL, add_generation_prompt=True)
    assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000)) == expected
    assert json.loads(run(tokenizer.encode_json("a <|im_end|>"))) == model.tokenize("a <|im_end|>")
    assert run(tokenizer.encode_prompt("", 1000)) == [model.bos_id]
    pieces = zip(model.tokenize("é\ud800"), ["\ufffd", "\ufffd", "?"], strict=True)
    found = json.loads(run(tokenizer.encode_json("é\ud800", max_pieces=3)))
    assert found == [{"id": i, "piece": p} for i, p in pieces]
    assert run(tokenizer.decode(expected)).startswith("<|im_start|>user\n")
    assert run(tokenizer.special_string(USUAL)) == (0, "content", "<|im_end|>")


@pytest.mark.parametrize(("content", "why"), [("hang", r"1\.5 s"), ("bomb", "512 MiB"), ("fail", "division by zero")])
def test_failing_template_affects_only_its_request(tokenizer: LlamaTokenizer, content: str, why: str) -> None:
    with pytest.raises(ChatError, match=why):
        run(tokenizer.encode_chat(user_message(content), {}, "opening", 1000))
    assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))


def test_rendering_does_not_block_the_event_loop(tokenizer: LlamaTokenizer) -> None:
    async def beside() -> float:
        hanging = asyncio.create_task(tokenizer.encode_chat(user_message("hang"), {}, "opening", 1000))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await tokenizer.encode_chat(USUAL, {}, "opening", 1000)
        took = time.monotonic() - began
        assert not hanging.done()
        with pytest.raises(ChatError):
            await hanging
        return took

    assert run(beside()) < 1.0


def test_cancelled_request_ends_its_worker_task(tokenizer: LlamaTokenizer) -> None:
    async def leave() -> None:
        for _ in range(4):  # more than there are workers
            task = asyncio.create_task(tokenizer.encode_chat(user_message("hang"), {}, "opening", 1000))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.wait_for(tokenizer.encode_chat(USUAL, {}, "opening", 1000), LIMIT_S)

    run(leave())


def test_worker_crash_affects_only_its_request(tokenizer: LlamaTokenizer) -> None:
    async def crash() -> None:
        task = asyncio.create_task(tokenizer.encode_chat(user_message("hang"), {}, "opening", 1000))
        while not task.done():  # the worker may have been killed from outside, so a second one is tried
            await asyncio.sleep(0.3)
            for process in workers(tokenizer)[1:]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGSEGV)
        with pytest.raises(TextFailed, match="crash"):
            await task
        for _ in range(3):  # the other worker was killed while idle
            assert await tokenizer.encode_chat(USUAL, {}, "opening", 1000)

    run(crash())


def test_killed_fork_server_is_restarted(tokenizer: LlamaTokenizer) -> None:
    before = workers(tokenizer)
    for process in before:
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: all(worker.ended for worker in idle(tokenizer)))
    for _ in range(3):
        assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))
    assert not set(before) & set(workers(tokenizer))


def test_too_many_pieces_are_rejected_before_building_them(tokenizer: LlamaTokenizer) -> None:
    with pytest.raises(PromptTooLong) as caught:
        run(tokenizer.encode_json("xyz " * 100, max_pieces=50))
    assert caught.value.tokens == len(json.loads(run(tokenizer.encode_json("xyz " * 100))))


def test_text_that_cannot_fit_the_context_is_not_tokenized(tokenizer: LlamaTokenizer) -> None:
    began = time.monotonic()
    with pytest.raises(PromptTooLong) as caught:
        run(tokenizer.encode_chat(user_message("1" * (1 << 20)), {}, "opening", 1000))
    assert 1000 < caught.value.tokens < 1 << 20 and time.monotonic() - began < LIMIT_S


@pytest.mark.parametrize("name", ["subprocess.Popen", "socket.socketpair"])
def test_failed_worker_start_is_retried_later(
    tokenizer: LlamaTokenizer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for process in workers(tokenizer):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: all(worker.ended for worker in idle(tokenizer)))

    def fault(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def short_of() -> None:
        with monkeypatch.context() as short:
            short.setattr(f"serve.llama.text.pool.{name}", fault)
            for _ in range(4):  # more than there are workers
                with pytest.raises(TextUnavailable):
                    await tokenizer.encode_chat(USUAL, {}, "opening", 1000)

    run(short_of())
    for _ in range(3):
        assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))
    assert len(workers(tokenizer)) == 3


def test_remaining_worker_serves_while_another_cannot_start(
    tokenizer: LlamaTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: TextWorkers) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    os.kill(workers(tokenizer)[-1], signal.SIGKILL)
    wait_until(lambda: any(worker.ended for worker in idle(tokenizer)))
    with monkeypatch.context() as short:
        short.setattr(TextWorkers, "_fork_worker", fault)
        for _ in range(3):
            assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))
    assert run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))
    assert len(idle(tokenizer)) == 2


def test_worker_with_grown_memory_is_replaced() -> None:
    """Run in a separate process with code that leaks memory, because tokenizer and template do not."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", HOARDER, str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        ours.settimeout(60)
        for size, grown in ((1 << 20, False), (80 << 20, True)):
            ours.sendall(frames.request({"bytes": size}))
            head = ours.recv(frames.REPLY.size)
            assert frames.REPLY.unpack(head) == (0, frames.Kind.IDS, grown)
    finally:
        ours.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_long_text_does_not_replace_its_worker(tokenizer: LlamaTokenizer, length: int) -> None:
    text = ("The boat leaves at noon. " * 4000)[:length]
    run(tokenizer.encode_chat(USUAL, {}, "opening", 1000))
    before = workers(tokenizer)
    for _ in range(4):
        run(tokenizer.encode_chat(user_message(text), {}, "opening", 200_000))
        assert workers(tokenizer) == before


def test_worker_environment_contains_no_keys_or_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("BURNISH_SERVE_API_KEYS", "secret")
    found = LlamaTokenizer(model, None, "text", LIMIT_S)
    try:
        found.wait()
        assert all(b"secret" not in Path(f"/proc/{process}/environ").read_bytes() for process in workers(found))
    finally:
        found.close()


@pytest.mark.parametrize(
    ("dialect", "why"), [("hermes", ""), ("mistral", "unknown format"), ("elvish", "unknown tool dialect 'elvish'")]
)
def test_calls_are_parsed_only_with_the_recorded_dialect(model: Model, dialect: str, why: str) -> None:
    template = ChatTemplate(TEMPLATES["chatml-tools"][2], "2026-01-02")
    found = LlamaTokenizer(model, template, "text", LIMIT_S, dialect)
    try:
        found.wait()
        assert found.dialects.usable == (not why) and why in found.dialects.why
    finally:
        found.close()


def test_workers_exit_with_the_server(model: Model) -> None:
    found = LlamaTokenizer(model, None, "text", LIMIT_S)
    found.wait()
    processes = workers(found)
    found.close()
    wait_until(lambda: not any(Path(f"/proc/{process}/stat").exists() for process in processes))


def test_workers_print_nothing_if_the_server_exits_early(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    LlamaTokenizer(model, None, "text", LIMIT_S).close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["nested loops", "text times", "open tag", "exponential macro"])
def test_unusable_template_is_reported_at_startup(model: Model, name: str) -> None:
    found = LlamaTokenizer(model, chat(model, HOSTILE[name]).template, "text", 0.5)
    try:
        fault = found.wait()
        assert fault and fault.isprintable()
        with pytest.raises(ChatError):
            run(found.encode_chat(USUAL, {}, "opening", 1000))
        assert json.loads(run(found.encode_json("a"))) == model.tokenize("a")
    finally:
        found.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tiny(tmp_path_factory.mktemp("served") / "tiny.gguf", pre="tekken")
    with serving(model=path, context_length=None, template_timeout_s=LIMIT_S) as running:
        yield running


def test_health_responds_while_templates_hang(server: ServerProcess) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(server.chat("hang")[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert server.call("GET", "/health/live")[0] == 200
        slowest = max(slowest, time.monotonic() - began)
    assert found == [400, 400] and slowest < 1.0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("fail", "invalid_value"),
        ("bomb", "invalid_value"),
        ("a" * 40_000, "context_length_exceeded"),
        ("<|im_end|>" * 80_000, "context_length_exceeded"),
        ("é" * 150_000, "context_length_exceeded"),
    ],
    ids=["fail", "bomb", "run", "specials", "accents"],
)
def test_hostile_message_gets_400(server: ServerProcess, content: str, code: str) -> None:
    status, _, body = server.chat(content)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, code, "messages")
    assert body["error"]["message"].isprintable()
    assert server.chat("hi", max_tokens=2)[0] == 200


def test_template_output_over_the_limit_gets_400(server: ServerProcess) -> None:
    """Neither the tokenizer nor the event loop processes the text, which would take seconds."""
    status, _, body = server.chat("long")
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
    status, _, body = server.call("POST", "/apply-template", {"messages": user_message("long")})
    assert status == 400 and "at most 4194304 are returned" in body["error"]["message"]
    status, _, body = server.call("POST", "/apply-template", {"messages": user_message("pages")})
    assert status == 200 and body["prompt"].count("xy ") == 10**6


def test_long_runs_of_one_character_are_tokenized(server: ServerProcess) -> None:
    for unit in ("a", "A", " ", "!"):
        status, _, body = server.call("POST", "/tokenize", {"content": unit * 100_000})
        assert (status, len(body["tokens"])) == (200, 100_000)


def test_sigterm_stops_a_server_with_a_hanging_template(tmp_path: Path) -> None:
    path = tiny(tmp_path / "tiny.gguf", HOSTILE["nested loops"])
    with serving(model=path, context_length=None, template_timeout_s=LIMIT_S) as running:
        assert "/v1/chat/completions returns an error" in running.output
        assert running.chat("hi")[0] == 400
        assert running.call("POST", "/v1/completions", {"model": "default", "prompt": "hi", "max_tokens": 1})[0] == 200
        assert running.stop(timeout=20) == 0
