"""The interfaces of serve: a pure Python model behind the protocols is fully served, and output parsers work."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve.engine.backend import Backend
from serve.engine.delivery import EventBridge
from serve.engine.engine import Engine
from serve.engine.step import SchedulerLimits
from serve.engine.tokenizer import TextBusy, TextUnavailable, Tokenizer
from serve.http.app import create_app
from serve.http.auth import Keys
from serve.http.output_parsers import ParsedDelta, ParserFactory, plain_text
from serve.http.service import Service
from serve.metrics import Metrics
from serve.served import Served
from serve.settings import ServeSettings
from tests.support.fake_model import END, ByteTokenizer, EchoBackend
from tools.layers import module_graph

LIMITS = SchedulerLimits(slots=5, running=4, cells=2000, per_slot=400, shared=False)
CHAT: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Grüße, <b>world</b>"}]}


class QuietLog(logging.Logger):
    """A log that stores its lines."""

    def __init__(self) -> None:
        super().__init__("quiet")
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:  # type: ignore[override]
        self.lines.append(fields)

    debug = error = info  # type: ignore[assignment]


def ask(
    *calls: tuple[str, dict[str, Any]], parser: ParserFactory = plain_text, refuse_specials: bool = False
) -> list[httpx.Response]:
    """Send requests to the echo model one after another; return the replies."""
    backend: Backend = EchoBackend()
    tokenizer: Tokenizer = ByteTokenizer()
    served = Served("echo", tokenizer, frozenset({END}), ("STOP",), 400, 0, "fp_0", {}, refuse_specials)

    async def run() -> list[httpx.Response]:
        bridge, metrics = EventBridge(), Metrics()
        bridge.open(asyncio.get_running_loop())
        engine = Engine(backend, LIMITS, bridge.deliver, metrics)
        metrics.watch(engine.snapshot)
        engine.start()
        app = create_app(Service(engine, served, 400, ServeSettings(), metrics, parser), Keys([]), QuietLog())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            replies = [await client.post(path, json=body) for path, body in calls]
            replies.append(await client.get("/metrics"))
        engine.close()
        return replies

    return asyncio.run(run())


def streamed(reply: httpx.Response, take: Callable[[dict[str, Any]], str | None]) -> str:
    """Join the text of a streamed reply's chunks."""
    events = [json.loads(e[6:]) for e in reply.text.split("\n\n") if e.startswith("data: {")]
    return "".join(take(choice) or "" for event in events for choice in event["choices"])


def content(reply: httpx.Response, stream: bool) -> str:
    assert reply.status_code == 200, reply.text
    if stream:
        return streamed(reply, lambda choice: choice["delta"].get("content"))
    return str(reply.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("stream", [False, True])
def test_pure_python_backend_serves_the_whole_api(stream: bool) -> None:
    raw = {"model": "echo", "prompt": ["abc", "de"], "max_tokens": 9, "logprobs": 1, "stream": stream}
    chat, again, completion, metrics = ask(
        ("/v1/chat/completions", {**CHAT, "stream": stream}),
        ("/v1/chat/completions", {**CHAT, "stream": stream, "stop": "<b>"}),
        ("/v1/completions", raw),
    )
    assert content(chat, stream) == "Grüße, <b>world</b>" and content(again, stream) == "Grüße, "
    if stream:
        assert streamed(completion, lambda choice: choice["text"] if choice["index"] else "") == "de"
    else:
        usage = chat.json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (21, 22)
        assert [choice["text"] for choice in completion.json()["choices"]] == ["abc", "de"]
        assert completion.json()["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2]
        assert "burnish_generated_tokens_total" in metrics.text and "burnish_cells_total 2000.0" in metrics.text


@pytest.mark.parametrize(("fault", "status"), [(TextBusy, 429), (TextUnavailable, 503)])
def test_busy_tokenizer_returns_a_retryable_error(
    fault: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise fault

    for name in ("encode_prompt", "encode_chat", "encode_json", "render_json", "decode_json"):
        monkeypatch.setattr(ByteTokenizer, name, refuse)
    *replies, _ = ask(
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"model": "echo", "prompt": "a"}),
        ("/apply-template", {"messages": CHAT["messages"]}),
        ("/tokenize", {"content": "ab"}),
        ("/detokenize", {"tokens": [97]}),
    )
    assert {reply.status_code for reply in replies} == {status}
    assert all(reply.json()["error"]["code"] and int(reply.headers["retry-after"]) > 0 for reply in replies)


def test_http_layer_uses_only_the_tokenizer_protocol() -> None:
    two = {"model": "echo", "messages": [{"role": "user", "content": c} for c in ("a", "b")]}
    between, empty, tokens, text, wrong, _ = ask(
        ("/v1/chat/completions", {**two, "chat_template_kwargs": {"between": "+"}}),
        ("/v1/chat/completions", {"model": "echo", "messages": [{"role": "user", "content": ""}]}),
        ("/tokenize", {"content": "ab"}),
        ("/detokenize", {"tokens": [97, END]}),
        ("/v1/completions", {"model": "echo", "prompt": [END + 1]}),
    )
    assert content(between, False) == "a+b" and empty.json()["error"]["message"] == "a message is empty"
    assert tokens.json() == {"tokens": [97, 98]} and text.json() == {"content": "a<end>"}
    assert wrong.json()["error"]["message"] == "Invalid 'prompt': token id 257 is not in the vocabulary."
    spelled = {"model": "echo", "messages": [{"role": "user", "content": "x <end>"}]}
    refused, _ = ask(("/v1/chat/completions", spelled), refuse_specials=True)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages[0].content"


class WithoutTags:
    """Removes <...>, and holds back a possible start."""

    called = False
    reasoned = None

    def __init__(self) -> None:
        self.open = ""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        out = ""
        for character in text:
            if self.open or character == "<":
                self.open += character
                if character == ">":
                    self.open = ""
            else:
                out += character
        return ParsedDelta(out + self.open if final else out)


@pytest.mark.parametrize("stream", [False, True])
def test_output_parser_applies_to_streamed_and_full_replies(stream: bool) -> None:
    made: list[Any] = []

    def factory(request: Any, prompt: Any) -> WithoutTags:
        made.append(request.model)
        return WithoutTags()

    body = {**CHAT, "n": 2, "stream": stream}
    cut = {**body, "n": 1, "max_completion_tokens": 11}
    whole, short, _ = ask(("/v1/chat/completions", body), ("/v1/chat/completions", cut), parser=factory)
    if stream:
        text = streamed(whole, lambda c: c["delta"].get("content") if c["index"] == 1 else "")
        finishes = [json.loads(e[6:])["choices"][0]["finish_reason"] for e in whole.text.split("\n\n")[:-2]]
        assert [reason for reason in finishes if reason] == ["stop", "stop"]
    else:
        text = whole.json()["choices"][1]["message"]["content"]
    assert text == "Grüße, world" and made == ["echo"] * 3
    assert content(short, stream) == "Grüße, <b"


def test_only_the_assembly_module_imports_model_engine_and_http() -> None:
    graph = module_graph()

    def importing(target: str) -> set[str]:
        return {m for m, found in graph.items() if m.startswith("serve.") and any(f.startswith(target) for f in found)}

    def outside(target: str, folder: str) -> set[str]:
        return {name for name in importing(target) if not name.startswith(folder)}

    assert outside("serve.llama", "serve.llama") == {"serve.assembly"}
    assert outside("serve.http", "serve.http") == {"serve.assembly", "serve.server"}
    assert outside("burnish.llama", "serve.llama") == set()
    assert not importing("serve.engine") & {name for name in graph if name.startswith("serve.decoding")}
    assert {name for name in importing("serve.http") if name.startswith("serve.engine")} == set()
