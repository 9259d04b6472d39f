"""One log line a request: its id, status, time and counts, never its text."""

from __future__ import annotations

import re
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from burnish.console import printable

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Log(Protocol):
    """The part of a structlog logger that is used."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


@dataclass
class AccessRecord:
    """One request on its way to its log line. `quiet`: logged at the level debug."""

    log: Log
    id: str
    method: str
    path: str
    quiet: bool
    status: int = 0
    started: float = field(default_factory=time.monotonic)

    def write(self, key: str | None, counts: Mapping[str, int]) -> None:
        """Log the request once it has ended. `counts`: its tokens and answers."""
        seconds = round(time.monotonic() - self.started, 4)
        path = printable(self.path[:200], one_line=True)  # the client may have escaped what a terminal would obey
        fields = {"request_id": self.id, "method": self.method, "path": path, "status": self.status}
        level = self.log.debug if self.quiet else self.log.info
        level("request", **fields, seconds=seconds, **({"key": key} if key else {}), **counts)

    def fault(self, error: Exception) -> None:
        """Log a fault of the server: the places, not the message, which could quote what the client sent."""
        places = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]]
        self.log.error("fault", request_id=self.id, error=type(error).__name__, places=places)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's own request id where it is plain, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
