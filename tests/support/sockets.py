"""Raw requests and replies over sockets, for the connection tests."""

from __future__ import annotations

import json
import socket
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from tests.support.server import ServerProcess, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
ASK = {"model": "default", "prompt": "x", "max_tokens": 4, "ignore_eos": True, "temperature": 0}


def impatient(model: Path) -> AbstractContextManager[ServerProcess]:
    """Start a server with short timeouts and few connections."""
    return serving(
        model=model,
        context_length=64,
        header_timeout_s=0.6,
        body_timeout_s=0.6,
        idle_timeout_s=0.8,
        send_timeout_s=0.6,
        max_connections=40,
    )


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=15)


def ask(**fields: Any) -> bytes:
    body = json.dumps({**ASK, **fields}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes or resets the connection."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def reply(connection: socket.socket) -> bytes:
    """Read one reply with a length, skipping interim ones."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            assert part, data
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        if status(head) != 100:
            break
        data = body
    length = int(next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")).split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def status(data: bytes) -> int:
    return int(data.split(b" ", 2)[1])


def code(data: bytes) -> str:
    return str(json.loads(data.rpartition(b"\r\n\r\n")[2])["error"]["code"])


def alive(server: ServerProcess) -> None:
    """Check that the server responds."""
    assert server.call("GET", "/health/ready", timeout=5)[0] == 200
    with closing(connect(server)) as connection:
        connection.sendall(ask())
        assert status(reply(connection)) == 200
