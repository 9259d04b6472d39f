"""h11's parser with additional limits: header size, URL length, chunk count and conflicting body lengths."""

from __future__ import annotations

from typing import Any

import h11

from .limits import CHUNK_BYTES, FREE_CHUNKS, MAX_TARGET, Limits, Refusal

CODES = {431: "headers_too_large", 501: "transfer_encoding_not_supported"}


class Reader(h11.Connection):
    """An h11 connection. When `next_event` raises RemoteProtocolError, `refusal` is the reply to send."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.max_header_bytes)
        self.limits = limits
        self.refusal: Refusal | None = None
        self._chunks = self._body = 0

    def next_event(self) -> Any:
        """Return h11's next event. Also raises RemoteProtocolError for a request over a limit."""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            hint = error.error_status_hint
            status = 400 if hint >= 500 else hint  # 501 suggests a server error, but the client is at fault
            self.refusal = Refusal(status, CODES.get(hint, "invalid_request"), f"Invalid HTTP request: {error}.")
            raise
        if isinstance(event, h11.Request):
            self._chunks = self._body = 0
            self._check(event)
        elif isinstance(event, h11.Data):
            self._count(event)
        return event

    def _check(self, request: h11.Request) -> None:
        names = [name for name, _ in request.headers]
        if request.http_version not in (b"1.0", b"1.1"):
            raise self._refuse(400, "http_version_not_supported", "expected HTTP/1.0 or HTTP/1.1")
        if len(names) > self.limits.max_headers:
            raise self._refuse(431, "headers_too_large", f"more than {self.limits.max_headers} headers")
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > self.limits.max_header_bytes:  # h11 checks only incomplete headers
            raise self._refuse(431, "headers_too_large", f"headers of more than {self.limits.max_header_bytes} bytes")
        if len(request.target) > MAX_TARGET:
            raise self._refuse(414, "url_too_long", f"the URL is longer than {MAX_TARGET} characters")
        if b"transfer-encoding" in names and b"content-length" in names:
            # request smuggling: a proxy in front of this server may use the other header and see different requests
            raise self._refuse(
                400, "invalid_request", "the request has both Content-Length and Transfer-Encoding: send only one"
            )
        if b"transfer-encoding" in names and request.http_version != b"1.1":
            raise self._refuse(400, "invalid_request", "Transfer-Encoding needs HTTP/1.1")

    def _count(self, data: h11.Data) -> None:
        self._body += len(data.data)
        self._chunks += data.chunk_start
        if self._chunks > FREE_CHUNKS + self._body // CHUNK_BYTES:
            raise self._refuse(400, "invalid_request", f"too many small chunks (under {CHUNK_BYTES} bytes)")

    def _refuse(self, status: int, code: str, what: str) -> h11.RemoteProtocolError:
        self.refusal = Refusal(status, code, f"Invalid HTTP request: {what}.")
        return h11.RemoteProtocolError(what, error_status_hint=status)
