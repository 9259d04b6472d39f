"""Thousands of connections: those that ask are answered, and files, memory and log stay small."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serve.connection.limits import Limits
from serve.connection.waiting import Connections
from serve.private.uvicorn import Edge, Protocol
from tests.support.server import ServerProcess, serving
from tests.support.sockets import HEAD, alive, connect, everything, reply, status
from tools import tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_gguf.write(path)
    return path


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    """One whose deadlines are short."""
    with serving(
        model=tiny,
        context_length=64,
        header_timeout_s=0.6,
        body_timeout_s=0.6,
        idle_timeout_s=0.8,
        send_timeout_s=0.6,
        max_connections=40,
    ) as running:
        yield running


def test_a_reset_that_comes_while_a_reply_ends_is_no_fault_of_the_route() -> None:
    """Then closing the writing side fails in the kernel, within the route's last send."""
    ended: list[BaseException | None] = []

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"too large"})
            ended.append(None)
        except OSError as error:
            ended.append(error)

    class Reset(Protocol):
        def connection_made(self, transport: Any) -> None:
            def write_eof() -> None:
                raise OSError(errno.ENOTCONN, "not connected")

            transport.write_eof = write_eof
            super().connection_made(transport)

    async def exchange() -> None:
        edge = Edge(Limits(), Connections(10), lambda refusal: None)
        config = uvicorn.Config(refuses, lifespan="off", log_config=None)
        config.load()
        made = partial(Reset, edge, config, ServerState(), {})
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\n{")
        with suppress(OSError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        listening.close()
        assert edge.connections.open == 0

    asyncio.run(exchange())
    assert ended == [None]


def test_silent_connections_make_room_for_those_that_ask(server: ServerProcess) -> None:
    silent = [connect(server) for _ in range(200)]
    try:
        alive(server)
        assert "Traceback" not in server.output and "Too many open files" not in server.output
    finally:
        for connection in silent:
            connection.close()


def test_answered_connections_whose_bodies_never_come_make_room_too(server: ServerProcess) -> None:
    held = [connect(server) for _ in range(80)]
    try:
        for connection in held:
            with suppress(OSError):
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        alive(server)
    finally:
        for connection in held:
            connection.close()


def test_where_every_connection_is_busy_new_ones_get_503(tiny: Path) -> None:
    with serving(model=tiny, context_length=64, max_connections=3, body_timeout_s=20) as small:
        held = [connect(small) for _ in range(3)]
        for connection in held:
            connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        time.sleep(0.3)
        with closing(connect(small)) as connection:
            data = everything(connection)
            assert status(data) == 503 and b"retry-after: 1" in data
        for connection in held:
            connection.close()
        time.sleep(0.3)
        alive(small)


def test_bodies_that_never_end_together_keep_few_bytes(tiny: Path) -> None:
    with serving(model=tiny, context_length=64, max_body_bytes=1000, body_timeout_s=3) as small:
        held = [connect(small) for _ in range(80)]
        for connection in held:
            connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 990)
        statuses = [status(reply(connection)) for connection in held]
        assert statuses.count(429) >= 80 - 65 and set(statuses) == {408, 429}
        for connection in held:
            connection.close()
        time.sleep(0.3)
        alive(small)


@pytest.mark.slow
def test_more_sockets_than_files_do_not_end_the_service(tiny: Path) -> None:
    """As where `ulimit -n` is 1,024, soft and hard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    server = ServerProcess(model=tiny, context_length=64, header_timeout_s=60)
    silent: list[socket.socket] = []
    try:
        server.wait_ready()
        resource.prlimit(server.child, resource.RLIMIT_NOFILE, (300, 300))  # far below max_connections
        silent += [socket.create_connection(("127.0.0.1", server.port)) for _ in range(700)]
        time.sleep(2)
        assert server.process.poll() is None and len(server.output) < 20_000 and "Traceback" not in server.output
    finally:
        for connection in silent:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        time.sleep(1.5)
        alive(server)
    finally:
        server.stop()
