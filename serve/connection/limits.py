"""Connection limits, and the replies to requests that never reach a route."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus

# maximum URL length in characters; longer ones get a 414
MAX_TARGET = 8192
# a chunked body may have this many chunks plus one per CHUNK_BYTES bytes: reading a one-byte chunk costs as much as
# reading a thousand-byte one
FREE_CHUNKS, CHUNK_BYTES = 1024, 64


@dataclass(frozen=True)
class Limits:
    """Sizes, counts and timeouts; see the settings of the same names."""

    max_connections: int = 1000
    max_header_bytes: int = 32_768
    max_headers: int = 100
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 30.0
    send_timeout_s: float = 60.0
    # how long the rest of a request is read and discarded after the reply, so that the client can read the reply
    # instead of getting a connection reset
    linger_s: float = 2.0


@dataclass(frozen=True)
class Refusal:
    """The reply to a malformed request, or to a connection above the limit."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def reply(self) -> bytes:
        """Return the complete HTTP response, with OpenAI's error object; the connection is then closed."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        fault = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = json.dumps({"error": fault}).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


TOO_SLOW = Refusal(408, "request_timeout", "The request's headers did not arrive in time.")
FULL = Refusal(503, "unavailable", "The server has reached its connection limit.", {"retry-after": "1"})
