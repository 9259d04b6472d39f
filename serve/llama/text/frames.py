"""The protocol between server and workers: requests as JSON, replies as ids or JSON, each prefixed with its length."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

REQUEST = struct.Struct("<I")  # length
REPLY = struct.Struct("<IBB")  # length, kind, whether to replace the worker
# to the parent: fork a worker for the attached socket, or kill one; then its number
CONTROL = struct.Struct("<cI")
FORK, KILL = b"f", b"k"


class Kind(IntEnum):
    """The kind of content in a reply."""

    IDS = 0  # token ids, 32 bits each
    VALUE = 1  # JSON
    REFUSED = 2  # the message of a ChatError
    TOO_LONG = 3  # a lower bound on the text's token count


@dataclass(frozen=True)
class Reply:
    """A worker's reply. With `retire`, the worker's memory has grown and it should be replaced."""

    kind: Kind
    body: bytes
    retire: bool = False

    @property
    def ids(self) -> list[int]:
        """The token ids of a reply of kind IDS."""
        return array("i", self.body).tolist()

    @property
    def value(self) -> Any:
        """The decoded JSON body of every other kind."""
        return json.loads(self.body)

    def data(self) -> bytes:
        return b"".join((REPLY.pack(len(self.body), self.kind, self.retire), self.body))


def ids(tokens: list[int]) -> Reply:
    """Return a reply of token ids."""
    return Reply(Kind.IDS, array("i", tokens).tobytes())


def value(content: Any, kind: Kind = Kind.VALUE) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(kind, _json(content))


def _json(content: Any) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # UTF-8 can't encode a lone surrogate, but a JSON escape can
        return json.dumps(content, separators=(",", ":")).encode()


def request(content: dict[str, Any]) -> bytes:
    """Return the frame of a request."""
    body = json.dumps(content).encode()
    return REQUEST.pack(len(body)) + body


def read_request(connection: socket.socket) -> dict[str, Any] | None:
    """Wait for the next request; return None once the server has closed the connection."""
    head = _read(connection, REQUEST.size)
    body = _read(connection, REQUEST.unpack(head)[0]) if head else None
    content: dict[str, Any] | None = json.loads(body) if body else None
    return content


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


async def read_reply(connection: socket.socket) -> Reply:
    """Read a reply from a non-blocking socket. Raises EOFError if the worker has exited."""
    size, kind, retire = REPLY.unpack(await _received(connection, REPLY.size))
    return Reply(Kind(kind), await _received(connection, size), bool(retire))


async def _received(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = await loop.sock_recv_into(connection, rest)
        if not count:
            raise EOFError
        rest = rest[count:]
        if rest:
            await asyncio.sleep(0)  # a socket that is always readable would block the event loop
    return bytes(data)
