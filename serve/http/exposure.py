"""Where requests may come from: the address that is listened on, host names, web origins and CORS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ..artefact import ServeError
from ..settings import ServeSettings
from .auth import Keys
from .errors import ApiError

# names that containers have for the machine that they run on; .internal is reserved, no stranger can register one
CONTAINER_HOSTS = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
READABLE_HEADERS = ("X-Request-ID", "Retry-After")
PREFLIGHT_AGE_S = 600
PORT = re.compile(r":\d+$")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


def check_exposure(settings: ServeSettings, keys: Keys) -> None:
    """Raise ServeError where the server would listen beyond this machine with no key and without allow_remote.

    Also for a web origin that no request could ever have.
    """
    web_origins(settings)
    if keys or settings.allow_remote or not is_exposed(settings):
        return
    if settings.published_on:
        raise ServeError(
            f"publishing the port on {settings.published_on} lets everyone who reaches this machine use the model: "
            "name a file of API keys, one a line (API_KEYS_FILE=FILE), or say BURNISH_SERVE_ALLOW_REMOTE=true"
        )
    raise ServeError(
        f"listening on {settings.host} lets everyone who reaches this machine use the model: set api_keys or "
        "api_keys_file, or say --allow_remote true"
    )


def host_names(settings: ServeSettings) -> list[str]:
    """Return the allowed host names as requests are compared with them: in lower case, without a port."""
    return [PORT.sub("", name.strip().lower()) for name in settings.allowed_hosts]


def web_origins(settings: ServeSettings) -> list[str]:
    """Return the allowed web origins as browsers send them. Raises ServeError for what is not one."""
    origins = [origin.strip().lower().rstrip("/") for origin in settings.cors_origins]
    for origin in origins:
        if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
            raise ServeError(
                f"cors_origins: '{origin}' is not a web origin; expected a scheme and a host, such as "
                "https://chat.example or http://localhost:3000, or '*'"
            )
    return origins


def is_exposed(settings: ServeSettings) -> bool:
    """Whether more than this machine reaches the port: in a container the address on which it is published decides."""
    return not is_loopback(settings.published_on or settings.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    name = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


@dataclass(frozen=True)
class Exposure:
    """Which host names and web origins are served. `keyed`: requests need a key, so any host name is safe."""

    allowed_hosts: list[str]
    cors_origins: list[str]
    keyed: bool

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise ApiError 403 for a host name or a web origin that is not served."""
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)

    def allows(self, origin: str | None) -> bool:
        """Whether pages of this web origin may call and read the replies."""
        return origin is not None and ("*" in self.cors_origins or origin in self.cors_origins)

    def _check_host(self, host: str) -> None:
        """Without a key, refuse names that a stranger's web page could point at this machine (DNS rebinding)."""
        name = PORT.sub("", host).lower()
        if self.keyed or "*" in self.allowed_hosts or name in self.allowed_hosts:
            return
        if is_loopback(name) or "." not in name or _is_address(name) or name in CONTAINER_HOSTS:
            return
        raise ApiError(
            403,
            f"This server does not answer to the host name '{name[:100]}': start it with --allowed_hosts NAME "
            "(BURNISH_SERVE_ALLOWED_HOSTS), or with API keys.",
            code="host_not_allowed",
        )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse calls that a foreign web page makes through a visitor's browser, unless its origin is listed."""
        origin = headers.get("origin")
        if origin is None or self.allows(origin):
            return
        if re.sub(r"^https?://", "", origin) == headers.get("host"):
            return
        raise ApiError(
            403,
            f"Calls from the web origin '{origin[:100]}' are not allowed: start the server with --cors_origins ORIGIN "
            "(BURNISH_SERVE_CORS_ORIGINS).",
            code="origin_not_allowed",
        )


def cors(app: ASGIApp, origins: list[str]) -> CORSMiddleware:
    """Return what answers preflights and adds the headers of CORS for the listed origins.

    Any header may be sent: what a key guards is guarded by the key, and SDKs send headers of their own (x-stainless-*).
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
