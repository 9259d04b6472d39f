"""Hostile requests: malformed headers and bodies, odd values, expensive structures, incomplete requests."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "default", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/completions": {"model": "default", "prompt": "x", "max_tokens": 1},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [1]},
}
PATHS = (
    *GOOD,
    "/v1/models",
    "/v1/models/default",
    "/version",
    "/metrics",
    "/health/ready",
    "/",
    "/%00",
    "*",
    "//",
    "/v1",
)
METHODS = (b"POST", b"GET", b"PUT", b"HEAD", b"OPTIONS", b"FOO", b"CONNECT", b"post", b"\xff")
NAMES = (
    "model", "messages", "prompt", "content", "role", "type", "text", "tokens", "n", "stop", "seed", "stream", "tools",
    "max_tokens", "logit_bias", "logprobs", "top_logprobs", "temperature", "chat_template_kwargs", "stream_options",
    "response_format", "echo", "user", "metadata", "self", "__proto__", "", "\x00", "x" * 2000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**4200, 0.5, 1e308, "", "x", "\x00", "\ud800",
    "{{ x }}", "<|im_end|>", "user", "text", "default", "\u2028", "\U0001f600", "x" * 5000, [], {}, [[]], [{}], [None],
    {"type": "text"},
)  # fmt: skip
HEADERS = (
    b"Content-Length: 2", b"Content-Length: -1", b"Content-Length: 99999999999", b"Content-Length: 0x2",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Expect: 100-continue", b"Expect: x",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: close", b"Connection: keep-alive", b"Host: b",
    b"Host: evil.example", b"Origin: https://evil.example", b"Authorization: Bearer x", b"Authorization: \xff",
    b"X: a\r\n b", b" X: y", b"X : y", b"X", b": y", b"X: \x00", b"X: \r", b"Content-Type: text/xml",
    b"Content-Encoding: gzip", b"X-Request-ID: \x1b[31m", b"X-Forwarded-For: ::1", b"Range: bytes=0-",
    b"Cookie: " + b"c" * 9000,
)  # fmt: skip
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Attack:
    """The bytes to send, in pieces."""

    kind: str
    pieces: tuple[bytes, ...]
    shut: bool = False  # close the writing side afterwards


def attack(rng: random.Random) -> Attack:
    """Return a random attack."""
    return rng.choice(ATTACKS)(rng)


def body(rng: random.Random) -> tuple[str, bytes]:
    """Return a path and a valid body with some odd fields."""
    path = rng.choice(list(GOOD))
    value = dict(GOOD[path])
    for _ in range(rng.randint(0, 3)):
        value[rng.choice(NAMES)] = _value(rng)
    value["max_tokens"] = rng.choice((1, 2, 3)) if path.startswith("/v1") else value.get("max_tokens", 1)
    if path == "/tokenize" or path == "/detokenize":
        value.pop("max_tokens", None)
    return path, json.dumps(value).encode()


def request(path: str, data: bytes, *headers: bytes, method: bytes = b"POST", close: bool = True) -> bytes:
    """Return the bytes of a request."""
    ends = (b"Connection: close",) if close else ()
    lines = [method + b" " + path.encode() + b" HTTP/1.1", b"Host: localhost", *headers, *ends]
    return b"\r\n".join((*lines, b"Content-Length: %d" % len(data))) + b"\r\n\r\n" + data


def _value(rng: random.Random, depth: int = 0) -> Any:
    draw = rng.random()
    if depth < 4 and draw < 0.15:
        return [_value(rng, depth + 1) for _ in range(rng.randint(0, 5))]
    if depth < 4 and draw < 0.3:
        return {rng.choice(NAMES): _value(rng, depth + 1) for _ in range(rng.randint(0, 5))}
    return rng.choice(VALUES)


def _odd(rng: random.Random) -> Attack:
    return Attack("odd values", (request(*body(rng)),), shut=rng.random() < 0.1)


def _mutated(rng: random.Random) -> Attack:
    data = bytearray(request(*body(rng)))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        change = rng.randrange(4)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at : at + rng.randint(1, 20)]
        elif change == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 5)))
        else:
            data[at:at] = data[at : at + rng.randint(1, 60)]
        data = data or bytearray(b"\r\n")
    return Attack("mutated bytes", (bytes(data),), shut=rng.random() < 0.3)


def _head(rng: random.Random) -> Attack:
    headers = rng.sample(HEADERS, rng.randint(1, 4)) * rng.choice((1, 1, 1, 60))
    data = body(rng)[1]
    return Attack("odd heads", (request(rng.choice(PATHS), data, *headers, method=rng.choice(METHODS)),))


def _chunked(rng: random.Random) -> Attack:
    path, data = body(rng)
    parts = [b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"]
    while data:
        size = rng.choice((1, 1, 7, len(data)))
        extension = rng.choice((b"", b"", b";a=b", b';a="\r"', b";" + b"e" * 3000))
        parts.append(b"%x%s\r\n%s\r\n" % (len(data[:size]), extension, data[:size]))
        data = data[size:]
    ends = (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n\x00\r\n\r\n", b"", b"-1\r\n\r\n", b"g\r\n\r\n")
    return Attack("chunks", (*parts, rng.choice(ends)), shut=rng.random() < 0.3)


def _cut(rng: random.Random) -> Attack:
    data = request(*body(rng))
    return Attack("cut", (data[: rng.randrange(len(data))],), shut=rng.random() < 0.5)


def _pipelined(rng: random.Random) -> Attack:
    count = rng.randint(2, 5)
    return Attack("pipelined", (b"".join(request(*body(rng), close=i == count - 1) for i in range(count)),))


def _costly(rng: random.Random) -> Attack:
    """Return a body that is expensive to parse for its size."""
    chat, plain = b'{"model":"default","messages":', b'{"model":"default","prompt":'
    path, before, unit, after = rng.choice(
        (
            ("/v1/chat/completions", chat + b"[", b"{},", b"{}]}"),
            ("/v1/chat/completions", chat + b'[],"x":[', b'"",', b"{}]}"),
            ("/v1/chat/completions", chat + b'[{"role":"user","content":"', b"<|im_end|>", b'"}],"n":"x"}'),
            ("/v1/completions", plain + b"[", b"1,", b'""]}'),
            ("/v1/completions", plain + b"[", b"111,", b'""]}'),
            ("/v1/completions", plain + b"[", b"[],", b"1]}"),
            ("/detokenize", b'{"tokens":[', b"1111,", b'""]}'),
            ("/tokenize", b'{"content":1,', b'"a":0,', b'"b":0}'),
            ("/tokenize", b'{"content":', b"[", b""),
        )
    )
    size = rng.choice((MEGABYTE, MEGABYTE, 30_000, 2 * MEGABYTE))
    return Attack("costly bodies", (request(path, before + unit * ((size - 100) // len(unit)) + after),))


ATTACKS: tuple[Callable[[random.Random], Attack], ...] = (
    _odd, _odd, _odd, _mutated, _mutated, _head, _head, _chunked, _cut, _pipelined, _costly,
)  # fmt: skip


def exchange(connection: socket.socket, sent: Attack) -> bytes:
    """Send an attack and return everything received until the server closes or resets the connection."""
    data = b""
    with suppress(ConnectionResetError, BrokenPipeError):
        for piece in sent.pieces:
            connection.sendall(piece)
        if sent.shut:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            data += part
    return data
