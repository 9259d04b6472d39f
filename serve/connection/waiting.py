"""The open connections: at the limit, the one that has waited longest for its client makes room for a new one."""

from __future__ import annotations

from typing import Protocol

# closed connections beyond the limit that may stay for a moment, so that their clients can read the reply
SPARE = 32


class Connection(Protocol):
    """What can be closed to make room."""

    def drop(self) -> None:
        """Close it at once, or answer that there is no room."""


class Connections:
    """Which connections are open, and which of them wait for their client: for a request or for the rest of one.

    A request that has arrived is never cut off. Connections that linger are counted apart from the open ones: they
    are being closed, and dropping one makes no room.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # in the order in which they began to wait
        self._lingering: dict[Connection, None] = {}  # likewise

    def __len__(self) -> int:
        return len(self._open) + len(self._lingering)

    def opened(self, connection: Connection) -> bool:
        """Add a new connection. False where there is no room for it, and no other that could make room."""
        if len(self._open) >= self.most:
            longest = next(iter(self._waiting), None)
            if longest is None:
                return False
            self.closed(longest)
            longest.drop()
        self._open.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """The connection has gone."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._lingering.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """The connection waits for its client. It keeps its place if it did before."""
        if connection in self._open:
            self._waiting.setdefault(connection)

    def busy(self, connection: Connection) -> None:
        """The connection's request has arrived, or the next part of what it waits for."""
        self._waiting.pop(connection, None)

    def lingers(self, connection: Connection) -> None:
        """The connection ends, but its client may read for a moment. Where too many do, the longest one is dropped."""
        self.closed(connection)
        self._lingering[connection] = None
        if len(self._lingering) > SPARE:
            longest = next(iter(self._lingering))
            self.closed(longest)
            longest.drop()
