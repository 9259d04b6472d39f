"""Request bodies: expensive ones are refused quickly without blocking the event loop, and errors name the reason."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.http.errors import ApiError
from serve.http.requests import parse
from serve.http.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.support.server import ServerProcess, serving
from tools import tiny_gguf

MEGABYTE = 1 << 20
MODEL = b'{"model":"default"'
TURN = b'"messages":[{"role":"user","content":"x"}]'


def filled(before: bytes, unit: bytes, after: bytes, size: int = MEGABYTE) -> bytes:
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def names(count: int, value: bytes = b"0") -> bytes:
    return b",".join(b'"%x":%s' % (i, value) for i in range(count))


# one for each way to make a megabyte more expensive than plain text
CHAT: dict[str, bytes] = {
    "empty messages": filled(MODEL + b',"messages":[', b"{},", b"{}]}"),
    "many messages": filled(MODEL + b',"messages":[', b'{"role":"user","content":"x"},', b"{}]}", 290_000),
    "many parts": filled(
        MODEL + b',"messages":[{"role":"user","content":[', b'{"type":"text","text":""},', b"{}]}]}", 250_000
    ),
    "strings as messages": filled(MODEL + b',"messages":[', b'"",', b"{}]}"),
    "unknown fields": MODEL + b"," + names(100_000) + b"}",
    "unknown fields of a message": MODEL + b',"messages":[{' + names(4000) + b"}]}",
    "biases": MODEL + b"," + TURN + b',"logit_bias":{' + names(4000, b"900") + b"}}",
    "metadata": MODEL + b"," + TURN + b',"metadata":{' + names(4000) + b"}}",
    "variables": filled(MODEL + b"," + TURN + b',"chat_template_kwargs":{"a":[', b'{"a":{}},', b'0]},"n":"x"}', 44_000),
    "structure in a string": filled(MODEL + b',"messages":[{"role":"user","content":"', b'\\"{[,:', b'"}],"n":"x"}'),
    "a string without an end": filled(MODEL + b',"messages":[{"role":"user","content":"', b'\\"{[,:', b""),
}
PROMPT: dict[str, bytes] = {
    "ones and a string": filled(MODEL + b',"prompt":[', b"1,", b'""]}'),
    "ids and a string": filled(MODEL + b',"prompt":[', b"111,", b'""]}'),
    "fractions": filled(MODEL + b',"prompt":[', b"1.5,", b"1]}"),
    "lists and a string": filled(MODEL + b',"prompt":[', b"[1],", b'""]}', 39_000),
    "lists of strings": filled(MODEL + b',"prompt":[', b'[""],', b"{}]}", 48_000),
}
IDS = {"ids": b'{"tokens":[' + b"1," * 290_000 + b"99999999]}"}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        *((ChatRequest, body) for body in CHAT.values()),
        *((CompletionRequest, body) for body in PROMPT.values()),
    ],
    ids=[*CHAT, *PROMPT],
)
def test_expensive_body_is_rejected_quickly(model: Any, body: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(ApiError) as caught:
        parse(model, body)
    assert caught.value.status == 400 and len(caught.value.message) < 2000
    assert time.thread_time() - began < 1  # 15 to 70 ms on an idle machine


def test_megabyte_of_text_or_ids_is_accepted() -> None:
    text = filled(
        MODEL + b',"messages":[{"role":"user","content":"', b'if (a[0] == {"b": 1, }) "'.replace(b'"', b'\\"'), b'"}]}'
    )
    assert parse(ChatRequest, text).messages
    assert parse(CompletionRequest, MODEL + b',"prompt":[' + b"11," * 250_000 + b"1]}").prompts()
    assert parse(TokenizeRequest, json.dumps({"content": "\U0001f600é\n" * 50_000}).encode()).content
    assert len(parse(DetokenizeRequest, b'{"tokens":[' + b"11," * 250_000 + b"1]}").tokens) == 250_001
    assert parse(TokenizeRequest, b'\xef\xbb\xbf{"content": "after a byte order mark"}').content


@pytest.mark.parametrize(
    ("body", "code", "fragment"),
    [
        (b'{"content": "\\ud800"}', None, "lone surrogate"),
        (b'{"content": "\\udc00 x"}', None, "lone surrogate"),
        (b'{"\\ud800": 1}', None, "lone surrogate"),
        (b'{"content": "\xed\xa0\x80"}', None, "line 1 column"),
        (b'{"content": "\xff"}', None, "line 1 column"),
        (b'{"content": "x", "content": "y"}', "duplicate_parameter", "'content' appears twice"),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate_parameter", "'b' appears twice"),
        (b'{"content": NaN}', None, "expected value"),
        (b'{"content": -Infinity}', None, ""),
        (b"[" * 100_000, "body_too_complex", "lists and objects"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, None, "recursion limit"),
        (b'{"content": ' + b"1" * 5000 + b"}", None, "number out of range"),
        (b'{"content": 1e999999}', "invalid_type", ""),
        (b'{"' + b"x" * 5000 + b'": 1}', "string_above_max_length", "more than 1024 characters"),
        (b"", None, "EOF"),
        (b"[]", "invalid_type", "not list"),
        (b"{} {}", None, "trailing"),
        ('{"content": "x"}'.encode("utf-16"), None, "expected value"),
    ],
    ids=range(18),
)
def test_invalid_json_is_rejected_with_its_position(body: bytes, code: str | None, fragment: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(TokenizeRequest, body)
    assert caught.value.status == 400 and caught.value.code == code and fragment in caught.value.message


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_gguf.write(path, template=tiny_gguf.CHATML)
    with serving(model=path, context_length=64) as running:
        yield running


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("logit_bias", {"1" * 5000: 1}, None),
        ("logit_bias", {"1" * 1000: 1}, "logit_bias"),
        ("logit_bias", {"٣": 1}, "logit_bias"),
        ("chat_template_kwargs", {"self": 1}, "chat_template_kwargs.self"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs.messages"),
        ("model", "\ud800", None),
        ("n", 10**400, "n"),
        ("seed", 10**400, "seed"),
        ("temperature", 10**400, "temperature"),
    ],
    ids=range(9),
)
def test_unusual_values_get_400(server: ServerProcess, field: str, value: Any, param: str | None) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, field: value}
    status, _, reply = server.call("POST", "/v1/chat/completions", body)
    assert status == 400 and reply["error"]["param"] == param, reply


@pytest.mark.parametrize(
    "name",
    ["cls", "context", "environment", "loop", "caller", "varargs", "kwargs", "range", "namespace", "a b", "", "0"],
)
def test_template_variable_names_never_cause_a_5xx(server: ServerProcess, name: str) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert server.call("POST", "/v1/chat/completions", {**body, "chat_template_kwargs": {name: 1}})[0] < 500


def test_long_text_is_tokenized_to_ids_but_with_pieces_is_rejected(server: ServerProcess) -> None:
    text = "xyz " * 50_000
    status, _, reply = server.call("POST", "/tokenize", {"content": text, "with_pieces": True})
    assert status == 400 and reply["error"]["param"] == "content"
    status, _, reply = server.call("POST", "/tokenize", {"content": text})
    assert status == 200
    assert server.call("POST", "/detokenize", reply)[2]["content"] == text


def test_health_responds_while_sixteen_clients_send_expensive_bodies(server: ServerProcess) -> None:
    """Measured: at most 0.05 to 0.15 s on two cores; the assertion allows for a busy machine."""
    bodies = [
        *(("/v1/chat/completions", body) for body in CHAT.values()),
        *(("/v1/completions", body) for body in PROMPT.values()),
        *(("/detokenize", body) for body in IDS.values()),
        ("/tokenize", b'{"with_pieces":true,"content":"' + b"x " * 24_000 + b'"}'),
    ]
    stop, faults = threading.Event(), []

    def attack(first: int) -> None:
        number = first
        while not stop.is_set():
            path, body = bodies[number % len(bodies)]
            status = server.call("POST", path, body)[0]
            if status >= 500:
                faults.append((path, status))
            number += 1

    attackers = [threading.Thread(target=attack, args=(first,)) for first in range(16)]
    for attacker in attackers:
        attacker.start()
    waits: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    end = time.monotonic() + 6
    while time.monotonic() < end:
        began = time.monotonic()
        connection.request("GET", "/health/live")
        assert connection.getresponse().read()
        waits.append(time.monotonic() - began)
        time.sleep(0.02)
    stop.set()
    for attacker in attackers:
        attacker.join()
    waits.sort()
    print(f"{len(waits)} checks: median {waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s")
    assert not faults and waits[len(waits) // 2] < 0.25 and waits[-1] < 2
