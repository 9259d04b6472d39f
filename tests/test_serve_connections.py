"""Connections: slow, silent, half-closed, oversized and malformed ones, and thousands of them."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, serving
from tests.support.sockets import ASK, HEAD, alive, ask, code, connect, everything, impatient, reply, status


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[ServerProcess]:
    """A server with short timeouts."""
    with impatient(tiny) as running:
        yield running


def test_connection_without_a_request_is_closed(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        began = time.monotonic()
        assert everything(connection) == b""
        assert 0.4 < time.monotonic() - began < 5


def test_slow_headers_get_408(server: ServerProcess) -> None:
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


def test_slow_headers_of_a_second_request_get_408(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(ask())
        assert status(reply(connection)) == 200
        connection.sendall(HEAD)
        assert status(everything(connection)) == 408


def test_slow_body_gets_408(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        data = everything(connection)
        assert status(data) == 408 and code(data) == "request_timeout"
    assert 'burnish_errors_total{code="request_timeout",status="408"}' in server.call("GET", "/metrics")[2].decode()


def test_idle_connection_is_closed_after_the_keep_alive_timeout(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        for _ in range(3):
            connection.sendall(ask())
            assert status(reply(connection)) == 200
            time.sleep(0.3)
        began = time.monotonic()
        assert everything(connection) == b"" and time.monotonic() - began < 5


def test_early_response_is_readable_and_unread_body_does_not_keep_the_connection_open(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        head = b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head)
        assert status(reply(connection)) == 404
        began = time.monotonic()
        with pytest.raises(OSError):  # keeps sending until the server closes
            while time.monotonic() - began < 20:
                connection.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert time.monotonic() - began < 15


def test_malformed_body_after_an_early_response_gets_no_second_response(server: ServerProcess) -> None:
    for broken in (b"zz\r\n", b"1\r\n{\r\n" * 4000):
        with closing(connect(server)) as connection:
            connection.sendall(b"POST /nope HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert status(reply(connection)) == 404
            connection.sendall(broken)
            assert everything(connection) == b""


def test_client_that_sends_too_much_receives_the_error(server: ServerProcess) -> None:
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
def test_client_that_does_not_read_is_disconnected(tiny: Path, stream: bool) -> None:
    """Its reply is larger than the buffers of kernel and server."""
    with serving(model=tiny, context_length=250, send_timeout_s=0.5, idle_timeout_s=1, max_choices=40) as small:
        before = sockets_of(small)
        with closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", small.port))
            if stream:
                body = {**ASK, "n": 40, "max_tokens": 240, "logprobs": 5, "stream": True}
                connection.sendall(ask(**body))
            else:
                text = json.dumps({"content": "x" * 1_000_000}).encode()
                connection.sendall(
                    b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(text) + text
                )
            end = time.monotonic() + 30
            while sockets_of(small) > before:
                assert time.monotonic() < end, "it is still open"
                time.sleep(0.1)
        small.wait_idle(5)


def sockets_of(server: ServerProcess) -> int:
    """Count the server's open sockets."""
    files = [file.readlink() for file in Path(f"/proc/{server.child}/fd").iterdir() if file.is_symlink()]
    return sum(str(file).startswith("socket:") for file in files)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [True, False])
def test_half_closed_connection_still_receives_the_response(server: ServerProcess, version: str, stream: bool) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(ask(stream=stream, max_tokens=30).replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        connection.shutdown(socket.SHUT_WR)
        data = everything(connection)
    assert data.count(b"HTTP/1.1 200") == 1 and b'"finish_reason":"length"' in data.replace(b" ", b"")


def test_pipelined_requests_are_answered_in_order_after_half_close(server: ServerProcess) -> None:
    with closing(connect(server)) as connection:
        between = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(ask(max_tokens=1) + between + ask(max_tokens=2))
        connection.shutdown(socket.SHUT_WR)
        data = everything(connection)
    assert data.count(b"HTTP/1.1 200") == 3
    assert data.index(b'"completion_tokens":1') < data.index(b'"owned_by"') < data.index(b'"completion_tokens":2')


def test_disconnect_during_upload_is_logged_and_counted_as_499(server: ServerProcess) -> None:
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
def test_malformed_request_gets_one_error_and_closes_the_connection(
    server: ServerProcess, request_: bytes, expected: int
) -> None:
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
def test_unusual_requests_get_the_correct_4xx(server: ServerProcess, request_: bytes) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(request_)
        data = reply(connection)
        assert 400 <= status(data) < 500
    assert "Traceback" not in server.output


def test_rejected_connections_are_counted_and_their_log_lines_rate_limited(server: ServerProcess) -> None:
    for _ in range(30):
        with closing(connect(server)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nA: b\r\n\r\n")
            assert status(everything(connection)) == 400
    assert 'burnish_errors_total{code="invalid_request",status="400"}' in metrics(server)
    assert server.output.count("refused: ") < 15 and server.output.count("Invalid HTTP request") < 15
    assert "Traceback" not in server.output


def test_unknown_urls_and_methods_are_counted_in_metrics(server: ServerProcess) -> None:
    server.call("GET", "/nothing")
    server.call("DELETE", "/v1/models")
    assert 'burnish_errors_total{code="unknown_url",status="404"}' in metrics(server)
    assert 'burnish_errors_total{code="method_not_supported",status="405"}' in metrics(server)
    assert 'code=""' not in metrics(server)


def test_terminal_escapes_are_escaped_in_the_log(server: ServerProcess) -> None:
    server.call("GET", "/%1b]0;evil%07%e2%80%ae%0a")
    wait_for(server, "evil")
    line = next(line for line in server.output.split("\n") if "evil" in line)
    assert json.loads(line)["path"] == r"/\x1b]0;evil\x07\u202e\n"


def test_connection_reset_after_a_rejection_is_not_an_internal_error(server: ServerProcess) -> None:
    body = b'{"prompt": "' + b"x" * 300_000
    for number in range(60):
        connection = connect(server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
        connection.sendall(HEAD + b"Content-Length: 3000000\r\n\r\n" + body[: 1000 * number])
        time.sleep(number / 20_000)
        connection.close()
    alive(server)
    assert '"event": "internal error"' not in server.output and "error in the event loop: " not in server.output
