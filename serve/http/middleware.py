"""Manners at the door: request ids, host and origin checks, keys and their limits, one log line without any text."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.files import split_lines

from ..artefact import ServeError
from ..metrics import Metrics
from ..settings import ServeSettings
from .errors import ApiError, failed

OPEN_PATHS = ("/health/live", "/health/ready")
# the page holds nothing of the model's: a browser can't send a key before it has the page to type it into
PAGE_PATHS = ("/", "/favicon.ico")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
ALLOWED_METHODS = "GET, POST, OPTIONS"
ALLOWED_HEADERS = "Authorization, Content-Type, X-Request-ID"


class Log(Protocol):
    """The part of a structlog logger that is used."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


class Keys:
    """The API keys, only as their hashes."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def find(self, key: str) -> str | None:
        """Return a short name of the key, or None where it is unknown; takes the same time for every key."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = [known for known in self._hashes if hmac.compare_digest(known, given)]
        return found[0].hex()[:8] if found else None


def read_keys(settings: ServeSettings) -> Keys:
    """Collect the keys of the settings and of the file. Raises ServeError for a file that can't be read or is empty."""
    keys = [key.strip() for key in settings.api_keys if key.strip()]
    if settings.api_keys_file:  # compose passes an empty one where no file was given
        path = Path(settings.api_keys_file)
        try:
            lines = [line.strip() for line in split_lines(path.read_text(encoding="utf-8"))]
        except (OSError, UnicodeDecodeError) as error:
            raise ServeError(f"{path}: the API keys can't be read: {error}") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ServeError(f"{path}: no API key in it; one a line")
        keys += found
    if any(not key.isascii() for key in keys):
        raise ServeError("API keys must be ASCII: they travel in a header")
    return Keys(keys)


def check_exposure(settings: ServeSettings, keys: Keys) -> None:
    """Raise ServeError where the server would listen beyond this machine with no key and nobody said that it may."""
    if keys or settings.allow_remote or is_loopback(settings.host):
        return
    raise ServeError(
        f"listening on {settings.host} lets everyone who reaches this machine use the model: set api_keys or "
        "api_keys_file, or say --allow_remote true"
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@dataclass
class Manners:
    """Wraps the application; see the functions for the rules."""

    app: ASGIApp
    settings: ServeSettings
    keys: Keys
    log: Log
    metrics: Metrics
    open_requests: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        visit = _Visit(request_id(headers), scope["method"], scope["path"])
        state = scope.setdefault("state", {})
        state["request_id"] = visit.id
        cors = self._cors(headers.get("origin"))

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                if visit.status >= 400:
                    self.metrics.errors.labels(str(visit.status), state.get("code", "")).inc()
                extra = {"x-request-id": visit.id, **cors}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        key: str | None = None
        try:
            if scope["method"] == "OPTIONS" and cors:
                await _plain(reply, 204, {})
                return
            key = self._admit(scope["path"], headers)
            state["key"] = key
            self.open_requests[key or ""] += 1
            await self.app(scope, receive, reply)
        except ApiError as error:
            state["code"] = error.code or error.kind
            await _json(reply, error, visit)
        except Exception as error:
            # the places, not the message: it could quote what the client sent
            places = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]]
            self.log.error("fault", request_id=visit.id, error=type(error).__name__, places=places)
            if visit.status == 0:
                await _json(reply, failed("The server had a fault; see its log."), visit)
        finally:
            if "key" in state:
                self.open_requests[key or ""] -= 1
            visit.write(self.log, key, state)

    def _admit(self, path: str, headers: Mapping[str, str]) -> str | None:
        """Check host, origin and key; return the key's short name. Raises ApiError."""
        if path in OPEN_PATHS:
            return None
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        if path in PAGE_PATHS or not self.keys:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = self.keys.find(given.strip()) if scheme.lower() == "bearer" and given.strip() else None
        if key is None:
            text = "Incorrect API key provided." if given else "No API key provided: send 'Authorization: Bearer KEY'."
            raise ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        most = self.settings.max_requests_per_key
        if most is not None and self.open_requests[key] >= most:
            raise ApiError(
                429,
                f"This key has {most} requests open, which is its limit.",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        return key

    def _check_host(self, host: str) -> None:
        """Without a key, refuse names that a stranger's web page could point at this machine (DNS rebinding)."""
        name = re.sub(r":\d+$", "", host).lower()
        if self.keys or "*" in self.settings.allowed_hosts or name in self.settings.allowed_hosts:
            return
        if is_loopback(name) or "." not in name or _is_address(name):
            return
        raise ApiError(
            403,
            f"This server does not answer to the host name '{name[:100]}'; see allowed_hosts.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse calls that a foreign web page makes through a visitor's browser, unless its origin is listed."""
        origin = headers.get("origin")
        if origin is None or self._cors(origin):
            return
        if re.sub(r"^https?://", "", origin) == headers.get("host"):
            return
        raise ApiError(403, "Calls from this web origin are not allowed; see cors_origins.", code="origin_not_allowed")

    def _cors(self, origin: str | None) -> dict[str, str]:
        listed = self.settings.cors_origins
        if origin is None or not ("*" in listed or origin in listed):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": ALLOWED_METHODS,
            "access-control-allow-headers": ALLOWED_HEADERS,
            "access-control-expose-headers": "x-request-id",
            "vary": "Origin",
        }


@dataclass
class _Visit:
    """One request, for its log line: never its text."""

    id: str
    method: str
    path: str
    status: int = 0
    started: float = field(default_factory=time.monotonic)

    def write(self, log: Log, key: str | None, state: Mapping[str, Any]) -> None:
        seconds = round(time.monotonic() - self.started, 4)
        counts = state.get("counts", {})
        fields = {"request_id": self.id, "method": self.method, "path": self.path[:200], "status": self.status}
        level = log.info if self.path not in OPEN_PATHS else getattr(log, "debug", log.info)
        level("request", **fields, seconds=seconds, **({"key": key} if key else {}), **counts)


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's own request id where it is plain, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


async def _json(send: Send, error: ApiError, visit: _Visit) -> None:
    if visit.status == 0:
        await _plain(send, error.status, error.headers, json.dumps(error.body()).encode())


async def _plain(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    entity = {"content-type": "application/json", "content-length": str(len(body))} if status != 204 else {}
    every = {**entity, **headers}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
