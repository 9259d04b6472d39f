"""The interface to a model: loaded in this process, or behind an OpenAI endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from burnish.errors import UserError

Json = dict[str, Any]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class EndpointError(UserError):
    """Raised when the endpoint can't be used: unreachable, wrong key, unknown model, or failed engine."""


class Lost(EndpointError):
    """Raised when one request got no answer; others may get one, unless this happens to many in succession."""


class Refused(Exception):
    """Raised when one request was rejected or failed; others may succeed. Contains the endpoint's message."""


class Endpoint(Protocol):
    """Answers requests. `identity` identifies the model; `parallel` is the number of concurrent requests."""

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def parallel(self) -> int: ...

    async def ask(self, path: str, body: Json) -> Json:
        """Send a request without its model name; return the reply. Raises Refused, Lost and EndpointError."""
        ...


def message_of(content: Any, status: int) -> str:
    """Return the message of an error reply."""
    error = content.get("error") if isinstance(content, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) and text else f"status {status}"
