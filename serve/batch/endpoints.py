"""What answers requests: a model in this process, or an OpenAI endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from burnish.errors import UserError

Json = dict[str, Any]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class EndpointError(UserError):
    """The endpoint can't be used at all: not reachable, a wrong key, an unknown model, a failed engine."""


class Refused(Exception):
    """One request was refused or failed; others may succeed. The message is the endpoint's."""


class Endpoint(Protocol):
    """Answers requests. `identity` is what its answers depend on; `parallel` how many requests it takes at once."""

    @property
    def identity(self) -> Mapping[str, Any]: ...
    @property
    def parallel(self) -> int: ...

    async def ask(self, path: str, body: Json) -> Json:
        """Send a request without its model name; return the reply. Raises Refused and EndpointError."""
        ...


def message_of(content: Any, status: int) -> str:
    """Return the message of an error reply."""
    error = content.get("error") if isinstance(content, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) and text else f"status {status}"
