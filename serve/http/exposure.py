"""Access restrictions: the listening address, host names, web origins and CORS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ..artifact import ServeError
from ..settings import ServeSettings
from .auth import Keys
from .errors import ApiError

# names of the host machine inside containers; .internal is reserved, so nobody can register one
CONTAINER_HOSTS = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
READABLE_HEADERS = ("X-Request-ID", "Retry-After")
PREFLIGHT_AGE_S = 600
PORT = re.compile(r":\d+$")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


def check_exposure(settings: ServeSettings, keys: Keys) -> None:
    """Raise ServeError for listening beyond loopback without a key or allow_remote, and for invalid web origins."""
    web_origins(settings)
    if keys or settings.allow_remote or not is_exposed(settings):
        return
    if settings.published_on:
        raise ServeError(
            f"publishing the port on {settings.published_on} lets anyone who can reach this machine use the model: set "
            "API_KEYS_FILE=FILE to a file with one API key per line, or allow it with BURNISH_SERVE_ALLOW_REMOTE=true"
        )
    raise ServeError(
        f"listening on {settings.host} lets anyone who can reach this machine use the model: set api_keys or "
        "api_keys_file, or allow it with --allow_remote true"
    )


def host_names(settings: ServeSettings) -> list[str]:
    """Return the allowed host names in the form used for comparison: lower case, without a port."""
    return [PORT.sub("", name.strip().lower()) for name in settings.allowed_hosts]


def web_origins(settings: ServeSettings) -> list[str]:
    """Return the allowed web origins as browsers send them. Raises ServeError for an invalid one."""
    origins = [origin.strip().lower().rstrip("/") for origin in settings.cors_origins]
    for origin in origins:
        if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
            raise ServeError(
                f"cors_origins: '{origin}' is not a web origin; expected a scheme and a host, such as "
                "https://chat.example or http://localhost:3000, or '*'"
            )
    return origins


def is_exposed(settings: ServeSettings) -> bool:
    """Whether other machines can reach the port; in a container, the published address decides."""
    return not is_loopback(settings.published_on or settings.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is reachable from this machine only."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@dataclass(frozen=True)
class Exposure:
    """The accepted host names and web origins. `keyed`: requests require a key, so any host name is safe."""

    allowed_hosts: list[str]
    cors_origins: list[str]
    keyed: bool

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise ApiError 403 for a host name or web origin that is not accepted."""
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this web origin may call the API and read the replies."""
        return origin is not None and ("*" in self.cors_origins or origin in self.cors_origins)

    def _check_host(self, host: str) -> None:
        """Without keys, reject names that a malicious web page could point at this machine (DNS rebinding)."""
        name = PORT.sub("", host).lower()
        if self.keyed or "*" in self.allowed_hosts or name in self.allowed_hosts:
            return
        if is_loopback(name) or "." not in name or _is_address(name) or name in CONTAINER_HOSTS:
            return
        raise ApiError(
            403,
            f"The host name '{name[:100]}' is not allowed: start the server with --allowed_hosts NAME "
            "(BURNISH_SERVE_ALLOWED_HOSTS), or with API keys.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Reject calls from web pages of other origins, unless the origin is listed."""
        origin = headers.get("origin")
        if origin is None or self.allows(origin):
            return
        if re.sub(r"^https?://", "", origin) == headers.get("host"):
            return
        raise ApiError(
            403,
            f"The web origin '{origin[:100]}' is not allowed: start the server with --cors_origins ORIGIN "
            "(BURNISH_SERVE_CORS_ORIGINS).",
            code="origin_not_allowed",
        )


def cors(app: ASGIApp, origins: list[str]) -> CORSMiddleware:
    """Return the middleware that answers preflights and adds CORS headers for the listed origins.

    Any request header is allowed: SDKs send their own (x-stainless-*), and the API key protects the API.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "OPTIONS"),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=READABLE_HEADERS,
        max_age=PREFLIGHT_AGE_S,
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
