"""Thousands of connections: requests are still answered, and open files, memory and log stay small."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from uvicorn.server import ServerState

from serve.connection.limits import Limits
from serve.connection.waiting import MAX_LINGERING, Connections
from serve.http.body import uploads
from serve.http.errors import ApiError
from serve.private.uvicorn import Protocol, Shared
from tests.support.server import ServerProcess, serving
from tests.support.sockets import HEAD, alive, connect, everything, impatient, reply, status


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    """A server with short timeouts."""
    with impatient(tiny) as running:
        yield running


def test_connection_reset_at_the_end_of_a_response_is_not_an_internal_error() -> None:
    """Closing the writing side then fails in the kernel, during the route's last send."""
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
        shared = Shared(Limits(), Connections(10), lambda refusal: None)
        config = uvicorn.Config(refuses, lifespan="off", log_config=None)
        config.load()
        made = partial(Reset, shared, config, ServerState(), {})
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\n{")
        with suppress(OSError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        listening.close()
        assert len(shared.connections) == 0

    asyncio.run(exchange())
    assert ended == [None]


def test_silent_connections_are_closed_for_new_requests(server: ServerProcess) -> None:
    silent = [connect(server) for _ in range(200)]
    try:
        alive(server)
        assert "Traceback" not in server.output and "Too many open files" not in server.output
    finally:
        for connection in silent:
            connection.close()


def test_answered_connections_with_missing_bodies_are_closed_for_new_requests(server: ServerProcess) -> None:
    held = [connect(server) for _ in range(80)]
    try:
        for connection in held:
            with suppress(OSError):
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        alive(server)
    finally:
        for connection in held:
            connection.close()


def test_stalled_uploads_do_not_block_other_clients(tiny: Path) -> None:
    """They use up the memory limit of all bodies, then all connections."""
    with serving(model=tiny, context_length=64, max_body_bytes=100_000, body_timeout_s=30) as small:
        held = [connect(small) for _ in range(80)]
        for connection in held:
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 99_999)
        began = time.monotonic()
        alive(small)
        body = {"content": "x" * 90_000}
        assert small.call("POST", "/tokenize", body)[0] == 200 and time.monotonic() - began < 4
        statuses = [status(reply(connection)) for connection in held]
        assert statuses[:10] == [429] * 10 and statuses[-10:] == [408] * 10
        for connection in held:
            connection.close()


def test_connections_with_missing_bodies_are_closed_for_new_requests(tiny: Path) -> None:
    with serving(model=tiny, context_length=64, max_connections=10, body_timeout_s=30) as small:
        held = [connect(small) for _ in range(10)]
        for connection in held:
            connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        time.sleep(0.3)
        began = time.monotonic()
        alive(small)
        assert time.monotonic() - began < 3
        data = everything(held[0])
        assert status(data) == 503 and b"retry-after: 1" in data
        assert '"status": 503' in small.output and 'code="unavailable",status="503"' in metrics(small)
        for connection in held:
            connection.close()


def metrics(server: ServerProcess) -> str:
    return str(server.call("GET", "/metrics")[2].decode())


class Peer:
    """A fake connection. With `polite` it lingers when dropped, otherwise it closes at once."""

    def __init__(self, connections: Connections, polite: bool) -> None:
        self.connections, self.polite, self.state = connections, polite, "open"

    def drop(self) -> None:
        assert self.state in ("waits", "lingers"), "it had a request"
        lingers, self.state = self.polite and self.state == "waits", "gone"
        if lingers:
            self.linger()

    def linger(self) -> None:
        self.state = "lingers"
        self.connections.lingers(self)


@given(st.lists(st.tuples(st.sampled_from(["open", "waits", "busy", "lingers", "gone"]), st.integers(0, 99))))
def test_connection_limit_holds_without_dropping_active_requests(steps: list[tuple[str, int]]) -> None:
    connections, peers = Connections(3), [Peer(Connections(1), False)]
    for step, number in steps:
        peer = peers[number % len(peers)]
        if step == "open":
            full = sum(peer.state in ("waits", "busy") for peer in peers) >= 3
            waiting = any(peer.state == "waits" for peer in peers)
            peers.append(Peer(connections, polite=bool(number % 2)))
            if connections.opened(peers[-1]):
                assert waiting or not full
                connections.waits(peers[-1])
                peers[-1].state = "waits"
            else:
                assert full and not waiting
                peers[-1].linger()
        elif peer.state in ("waits", "busy") and step in ("waits", "busy"):
            peer.state = step
            (connections.waits if step == "waits" else connections.busy)(peer)
        elif peer.state in ("waits", "busy") and step == "lingers":
            peer.linger()
        elif step == "gone" and peer.state != "open":
            peer.state = "gone"
            connections.closed(peer)
        assert sum(peer.state in ("waits", "busy") for peer in peers) <= 3
        assert sum(peer.state == "lingers" for peer in peers) <= MAX_LINGERING
        assert len(connections) == sum(peer.state in ("waits", "busy", "lingers") for peer in peers)


async def read_body(parts: int, pause_s: float, size: int) -> bytes:
    """Read a body of `parts` parts with a pause before each."""
    left = parts

    async def receive() -> Any:
        nonlocal left
        await asyncio.sleep(pause_s)
        left -= 1
        return {"type": "http.request", "body": b"x" * size, "more_body": left > 0}

    async with uploads.Uploads(1 << 20, 30).read(Request({"type": "http", "headers": []}, receive)) as body:
        return body


def test_slow_body_is_rejected_before_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "GRACE_S", 0.3)
    assert len(asyncio.run(read_body(parts=12, pause_s=0.05, size=1000))) == 12_000
    for parts, pause_s, size in ((100, 0.05, 10), (2, 1, 500_000)):  # a slow body; half a body and then nothing
        began = time.monotonic()
        with pytest.raises(ApiError, match="4096 bytes per second") as caught:
            asyncio.run(read_body(parts, pause_s, size))
        assert caught.value.status == 408 and time.monotonic() - began < 3


def test_new_connections_get_503_when_all_connections_are_active() -> None:
    """Refused connections linger briefly, without letting others in."""
    requests, ends = [], asyncio.Event()

    async def answers_late(scope: Any, receive: Any, send: Any) -> None:
        requests.append(scope["path"])
        await ends.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def crowd() -> None:
        shared = Shared(Limits(linger_s=0.5), Connections(5), lambda refusal: None)
        config = uvicorn.Config(answers_late, lifespan="off", log_config=None)
        config.load()
        made = partial(Protocol, shared, config, ServerState(), {})
        listening = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        address = listening.sockets[0].getsockname()
        clients = []
        for _ in range(60):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            clients.append((reader, writer))
            await asyncio.sleep(0.005)
            assert len(shared.connections) <= 5 + MAX_LINGERING
        refused = [status(await asyncio.wait_for(reader.read(), 10)) for reader, _ in clients[5:]]
        assert len(requests) == 5 and refused == [503] * 55
        ends.set()
        assert [status(await asyncio.wait_for(reader.read(), 10)) for reader, _ in clients[:5]] == [200] * 5
        for _, writer in clients:
            writer.close()
        await asyncio.sleep(0.1)
        assert len(shared.connections) == 0
        listening.close()

    asyncio.run(crowd())


@pytest.mark.slow
def test_running_out_of_file_descriptors_does_not_stop_the_server(tiny: Path) -> None:
    """As with a hard limit of `ulimit -n` 1024."""
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
