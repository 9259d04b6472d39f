"""One log line per request: id, status, duration and token counts, never the text."""

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
    """The structlog logger methods used here."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


@dataclass
class AccessRecord:
    """The data of a request's log line. With `quiet`, it is logged at debug level."""

    log: Log
    id: str
    method: str
    path: str
    quiet: bool
    status: int = 0
    started: float = field(default_factory=time.monotonic)

    def write(self, key: str | None, counts: Mapping[str, int]) -> None:
        """Log the request after it has ended. `counts`: its tokens and choices."""
        seconds = round(time.monotonic() - self.started, 4)
        path = printable(self.path[:200], one_line=True)  # it may contain terminal escape sequences
        fields = {"request_id": self.id, "method": self.method, "path": path, "status": self.status}
        level = self.log.debug if self.quiet else self.log.info
        level("request", **fields, seconds=seconds, **({"key": key} if key else {}), **counts)

    def exception(self, error: Exception) -> None:
        """Log an internal error: its traceback, but not its message, which could quote the client's data."""
        places = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]]
        self.log.error("internal error", request_id=self.id, error=type(error).__name__, places=places)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's request id if it is short printable ASCII, otherwise a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
