"""What a socket may do to the server: slow, silent, half-closed, greedy and malformed ones, and thousands of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import socket
import struct
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
from tools import tiny_gguf

# the listening socket, and the pair by which asyncio wakes itself
NO_CLIENTS = 3
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
ASK = {"model": "default", "prompt": "x", "max_tokens": 4, "ignore_eos": True, "temperature": 0}


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


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=15)


def ask(**fields: Any) -> bytes:
    body = json.dumps({**ASK, **fields}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes; a reset is an end too."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def reply(connection: socket.socket) -> bytes:
    """Read one reply with a length; interim ones are skipped."""
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
    assert server.call("GET", "/health/ready", timeout=5)[0] == 200
    with closing(connect(server)) as connection:
        connection.sendall(ask())
        assert status(reply(connection)) == 200


def test_a_silent_connection_is_closed(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        began = time.monotonic()
        assert everything(connection) == b""
        assert 0.4 < time.monotonic() - began < 5


def test_headers_that_trickle_get_408(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        began, sent = time.monotonic(), 0
        try:
            while time.monotonic() - began < 4:
                connection.sendall((HEAD + b"X: " + b"a" * 1000)[sent : sent + 1])
                sent += 1
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - began < 4, "it was still read"
    with closing(connect(server)) as connection:
        connection.sendall(HEAD)
        data = everything(connection)
        assert status(data) == 408 and code(data) == "request_timeout" and b"connection: close" in data
    alive(server)


def test_a_second_request_that_trickles_gets_408_too(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(ask())
        assert status(reply(connection)) == 200
        connection.sendall(HEAD)
        assert status(everything(connection)) == 408


def test_a_body_that_trickles_gets_408(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        data = everything(connection)
        assert status(data) == 408 and code(data) == "request_timeout"
    assert 'burnish_errors_total{code="request_timeout",status="408"}' in server.call("GET", "/metrics")[2].decode()


def test_an_idle_connection_is_kept_for_a_while_and_closed(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        for _ in range(3):
            connection.sendall(ask())
            assert status(reply(connection)) == 200
            time.sleep(0.3)
        began = time.monotonic()
        assert everything(connection) == b"" and time.monotonic() - began < 5


def test_a_reply_before_the_body_is_read_and_the_body_does_not_hold_the_connection(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        head = b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head)
        assert status(reply(connection)) == 404
        began = time.monotonic()
        with pytest.raises(OSError):  # it goes on sending, for ever
            while time.monotonic() - began < 20:
                connection.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert time.monotonic() - began < 15


def test_who_sends_too_much_can_read_that_it_is_too_much(server: ServerProcess) -> None:
    body = b'{"prompt": "' + b"x" * 3_000_000 + b'"}'
    for close in (b"", b"Connection: close\r\n"):
        with closing(connect(server)) as connection:
            connection.sendall(HEAD + close + b"Content-Length: %d\r\n\r\n" % len(body))
            try:
                connection.sendall(body)
            except OSError:
                pass
            assert status(reply(connection)) == 413


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_does_not_read_is_cut_off(tiny: Path, stream: bool) -> None:
    """Its answer is larger than what the kernel and the server keep for it."""
    with serving(model=tiny, context_length=250, send_timeout_s=0.5, idle_timeout_s=1, max_choices=40) as small:
        with closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", small.port))
            if stream:
                body = {**ASK, "n": 40, "max_tokens": 240, "logprobs": 5, "stream": True}
                connection.sendall(ask(**body))
            else:
                text = json.dumps({"content": "x" * 250_000, "with_pieces": True}).encode()
                connection.sendall(
                    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text
                )
            end = time.monotonic() + 30
            while sockets_of(small) > 0:
                assert time.monotonic() < end, "it is still open"
                time.sleep(0.1)
        small.wait_idle(5)


def sockets_of(server: ServerProcess) -> int:
    """Count the sockets that the server has open, the listening one apart."""
    files = [file.readlink() for file in Path(f"/proc/{server.child}/fd").iterdir() if file.is_symlink()]
    return sum(str(file).startswith("socket:") for file in files) - NO_CLIENTS


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_closes_its_writing_side_gets_its_answer(
    server: ServerProcess, version: str, stream: bool
) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(ask(stream=stream, max_tokens=30).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        connection.shutdown(socket.SHUT_WR)
        data = everything(connection)
    assert data.count(b"HTTP/1.1 200") == 1 and b'"finish_reason":"length"' in data.replace(b" ", b"")


def test_pipelined_requests_are_answered_in_order_also_after_the_end(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        between = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(ask(max_tokens=1) + between + ask(max_tokens=2))
        connection.shutdown(socket.SHUT_WR)
        data = everything(connection)
    assert data.count(b"HTTP/1.1 200") == 3
    assert data.index(b'"completion_tokens":1') < data.index(b'"owned_by"') < data.index(b'"completion_tokens":2')


def test_a_client_that_leaves_while_it_uploads_is_499_in_log_and_metrics(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(HEAD + b"X-Request-ID: left-early\r\nContent-Length: 100000\r\n\r\n{")
        time.sleep(0.1)
    wait_for(server, '"request_id": "left-early", "method": "POST", "path": "/v1/completions", "status": 499')
    assert 'burnish_errors_total{code="client_closed_request",status="499"}' in metrics(server)


def wait_for(server: ServerProcess, text: str) -> None:
    end = time.monotonic() + 5
    while text not in server.output:
        assert time.monotonic() < end, server.output[-2000:]
        time.sleep(0.05)


def metrics(server: ServerProcess) -> str:
    return str(server.call("GET", "/metrics")[2].decode())


BODY = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + BODY, 400),
        (HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + BODY, 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BODY, 400),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: -2\r\n\r\n", 400),
        (HEAD + b"Content-Length: 2_0\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
        (HEAD + b"Content-Length: " + b"9" * 15 + b"\r\n\r\n", 413),
        (HEAD + b"Content-Length : 2\r\n\r\n{}", 400),
        (HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(200)) + b"\r\n", 431),
        (HEAD + b"X: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (HEAD + b"\x00: y\r\n\r\n", 400),
        (HEAD + b"X: a\x00b\r\n\r\n", 400),
        (HEAD + b"X: a\rb\r\n\r\n", 400),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"FOO BAR BAZ QUX\r\n\r\n", 400),
        (b"NO\x01NE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000, 431),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 4000, 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000, 431),
    ],
    ids=range(30),
)
def test_malformed_requests_get_one_error_and_are_closed(server: ServerProcess, request_: bytes, expected: int) -> None:
    with closing(connect(server)) as connection:
        began = time.monotonic()
        try:
            connection.sendall(request_)
        except OSError:
            pass
        data = everything(connection)
        assert data.count(b"HTTP/1.1 ") == 1 and status(data) == expected, data[:300]
        assert set(json.loads(data.partition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}
        assert time.monotonic() - began < 5
    assert "Traceback" not in server.output


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
        HEAD + b"X: a\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        HEAD.replace(b"POST", b"FOO") + b"Content-Length: 2\r\n\r\n{}",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%00%0d%0a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=range(11),
)
def test_odd_requests_are_understood_and_answered_with_4xx(server: ServerProcess, request_: bytes) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(request_)
        data = reply(connection)
        assert 400 <= status(data) < 500
    assert "Traceback" not in server.output


def test_refused_connections_are_counted_and_logged_a_few_times_a_minute(server: ServerProcess) -> None:
    for _ in range(30):
        with closing(connect(server)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nA: b\r\n\r\n")
            assert status(everything(connection)) == 400
    assert 'burnish_errors_total{code="invalid_request",status="400"}' in metrics(server)
    assert server.output.count("refused: ") < 15 and server.output.count("Invalid HTTP request") < 15
    assert "Traceback" not in server.output


def test_unknown_urls_and_methods_have_their_codes_in_the_metrics(server: ServerProcess) -> None:
    server.call("GET", "/nothing")
    server.call("DELETE", "/v1/models")
    assert 'burnish_errors_total{code="unknown_url",status="404"}' in metrics(server)
    assert 'burnish_errors_total{code="method_not_supported",status="405"}' in metrics(server)
    assert 'code=""' not in metrics(server)


def test_clients_that_reset_what_is_refused_leave_no_fault(server: ServerProcess) -> None:
    body = b'{"prompt": "' + b"x" * 300_000
    for number in range(60):
        connection = connect(server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        connection.sendall(HEAD + b"Content-Length: 3000000\r\n\r\n" + body[: 1000 * number])
        time.sleep(number / 20_000)
        connection.close()
    alive(server)
    assert '"event": "fault"' not in server.output and "fault: " not in server.output


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
        used = os.times()
        assert server.process.poll() is None and len(server.output) < 20_000 and "Traceback" not in server.output
        del used
    finally:
        for connection in silent:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        time.sleep(1.5)
        alive(server)
    finally:
        server.stop()
