"""Middleware for all routes: request id, host and origin checks, API key, CORS headers, error metrics, access log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..metrics import Metrics
from .access_log import AccessRecord, Log, request_id
from .auth import Auth
from .errors import ApiError, failed
from .exposure import Exposure
from .routes.paths import normalize

OPEN_PATHS = ("/health", "/health/live", "/health/ready")
# the chat page needs no key: the user enters the key in the page, which contains no model data
PAGE_PATHS = ("/", "/favicon.ico")
PAGE_FILES = "/web/"


@dataclass
class Middleware:
    """Wraps the application; the rules are in auth, exposure and access_log."""

    app: ASGIApp
    auth: Auth
    exposure: Exposure
    log: Log
    metrics: Metrics
    cors: CORSMiddleware

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        raw_path, path = scope["path"], normalize(scope["path"])
        scope["path"] = path
        record = AccessRecord(self.log, request_id(headers), scope["method"], raw_path, quiet=path in OPEN_PATHS)
        state = scope.setdefault("state", {})
        state["request_id"] = record.id
        listed = self.exposure.allows(headers.get("origin"))
        if listed:
            send = partial(self.cors.send, send=send, request_headers=Headers(scope=scope))

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if record.status >= 400:
                    self.metrics.errors.labels(str(record.status), state.get("code", "")).inc()
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        key: str | None = None
        try:
            if listed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                state["code"] = "preflight_not_allowed"  # the error code if the preflight is rejected
                await self.cors.preflight_response(Headers(scope=scope))(scope, receive, reply)
                return
            key = self._admit(path, headers, (scope.get("client") or ("",))[0])
            self.auth.opened(key)
            try:
                await self.app(scope, receive, reply)
            finally:
                self.auth.closed(key)
        except ApiError as error:
            state["code"] = error.code or error.kind
            await _send_error(reply, error, record)
        except Exception as error:
            record.exception(error)
            await _send_error(reply, failed("Internal server error; see the server log."), record)
        finally:
            record.write(key, state.get("counts", {}))

    def _admit(self, path: str, headers: Mapping[str, str], address: str) -> str | None:
        """Check host, origin and key; return the key's short name. Raises ApiError."""
        if path in OPEN_PATHS:
            return None
        self.exposure.check(headers)
        if path in PAGE_PATHS or path.startswith(PAGE_FILES):
            return None
        return self.auth.check(headers, address)


async def _send_error(send: Send, error: ApiError, record: AccessRecord) -> None:
    if record.status == 0:
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": error.status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})
