"""Tracks open connections. At the limit, the longest-idle one is closed to admit a new one."""

from __future__ import annotations

from typing import Protocol

# connections above the limit that may stay open briefly so that their clients can read the reply
MAX_LINGERING = 32


class Connection(Protocol):
    """A connection that can be closed to make room."""

    def drop(self) -> None:
        """Close the connection at once, or reply 503."""


class Connections:
    """Tracks open connections, and which of them are waiting for their client to send a request or the rest of one.

    A request that has arrived completely is never interrupted. Lingering connections are counted separately: they are
    already closing, so dropping one frees no slot.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # longest wait first
        self._lingering: dict[Connection, None] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._open) + len(self._lingering)

    def opened(self, connection: Connection) -> bool:
        """Add a new connection. Return False if the limit is reached and no other connection can be closed."""
        if len(self._open) >= self.limit:
            longest = next(iter(self._waiting), None)
            if longest is None:
                return False
            self.closed(longest)
            longest.drop()
        self._open.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)
        self._lingering.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """Mark the connection as waiting for its client; if it already was, it keeps its position."""
        if connection in self._open:
            self._waiting.setdefault(connection)

    def busy(self, connection: Connection) -> None:
        """Mark the connection as not waiting: its request, or the next part of it, has arrived."""
        self._waiting.pop(connection, None)

    def lingers(self, connection: Connection) -> None:
        """Mark the connection as lingering: closing while its client may still read. Above a limit, drop the oldest."""
        self.closed(connection)
        self._lingering[connection] = None
        if len(self._lingering) > MAX_LINGERING:
            longest = next(iter(self._lingering))
            self.closed(longest)
            longest.drop()
