"""What the server and a worker send each other: requests as JSON, replies as ids or JSON, each with its length."""

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
REPLY = struct.Struct("<IBB")  # length, kind, whether the worker is to be replaced
# to the parent of the workers: fork one for the socket that comes along, or kill one; and its number
CONTROL = struct.Struct("<cI")
FORK, KILL = b"f", b"k"


class Kind(IntEnum):
    """What a reply holds."""

    IDS = 0  # token ids, 32 bits each
    VALUE = 1  # JSON
    REFUSED = 2  # the message of a ChatError
    TOO_LONG = 3  # the least number of tokens that the text would have


@dataclass(frozen=True)
class Reply:
    """A worker's answer. `retire`: it has grown, and another should take its place."""

    kind: Kind
    body: bytes
    retire: bool = False

    @property
    def ids(self) -> list[int]:
        """The token ids of a reply of kind IDS."""
        return array("i", self.body).tolist()

    @property
    def value(self) -> Any:
        """The content of every other kind, whose body is JSON."""
        return json.loads(self.body)

    def data(self) -> bytes:
        """Return the frame."""
        return b"".join((REPLY.pack(len(self.body), self.kind, self.retire), self.body))


def ids(tokens: list[int]) -> Reply:
    """Return a reply of token ids."""
    return Reply(Kind.IDS, array("i", tokens).tobytes())


def value(content: Any, kind: Kind = Kind.VALUE) -> Reply:
    """Return a reply of anything that JSON can hold."""
    return Reply(kind, _json(content))


def _json(content: Any) -> bytes:
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 can't hold and an escape can
        return json.dumps(content, separators=(",", ":")).encode()


def request(content: dict[str, Any]) -> bytes:
    """Return the frame of a request."""
    body = json.dumps(content).encode()
    return REQUEST.pack(len(body)) + body


def read_request(connection: socket.socket) -> dict[str, Any] | None:
    """Wait for the next request; None once the server has gone."""
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
    """Read a reply from a non-blocking socket. Raises EOFError where the worker has ended."""
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
            await asyncio.sleep(0)  # a socket that is always readable would keep the event loop to itself
    return bytes(data)
