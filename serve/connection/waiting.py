"""The connections that wait for a request: at the limit the longest silent one makes room for a new one."""

from __future__ import annotations

from typing import Protocol

# connections beyond the limit that may stay for a moment, to read why they were refused
SPARE = 32


class Waiting(Protocol):
    """A connection that has no request."""

    def drop(self) -> None:
        """Close it at once."""


class Connections:
    """How many connections are open, and which of them wait. A request that is being answered is never cut off."""

    def __init__(self, most: int) -> None:
        self.most, self.open = most, 0
        self._waiting: dict[Waiting, None] = {}  # in the order in which they began to wait

    def opened(self) -> bool:
        """Count a new connection. False where there is no room for it, and none that could make room."""
        self.open += 1
        if self.open <= self.most:
            return True
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        self.busy(longest)
        longest.drop()
        return True

    @property
    def crowded(self) -> bool:
        """Whether there are so many that a refused one must go at once."""
        return self.open > self.most + SPARE

    def closed(self, connection: Waiting) -> None:
        """The connection has gone."""
        self.open -= 1
        self.busy(connection)

    def waits(self, connection: Waiting) -> None:
        """The connection has no request now. It keeps its place if it had none before."""
        self._waiting.setdefault(connection)

    def busy(self, connection: Waiting) -> None:
        """The connection has a request."""
        self._waiting.pop(connection, None)
