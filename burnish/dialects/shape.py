"""Messages with tool calls as a chat template takes them: templates differ in what they expect of the same call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SHORT_ID = 9  # Mistral's templates refuse ids of another length


@dataclass(frozen=True)
class Shape:
    """How a template takes calls. `arguments`: as an object, or as JSON text; `empty`: a turn of calls without text has
    the content "", null or none at all; `short_ids`: ids have nine letters or digits."""

    arguments: Literal["object", "text"] = "object"
    empty: Literal["text", "null", "absent"] = "text"
    short_ids: bool = False

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return messages as the template takes them; `arguments` of their calls are JSON text."""
        return [self._message(message) for message in messages]

    def _message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(message)
        if isinstance(identity := found.get("tool_call_id"), str):
            found["tool_call_id"] = self._id(identity)
        if not found.get("tool_calls"):
            found.pop("tool_calls", None)
            return found
        found["tool_calls"] = [self._call(call) for call in found["tool_calls"]]
        if not found.get("content") and self.empty != "text":
            found["content"] = None
            if self.empty == "absent":
                del found["content"]
        return found

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = function["arguments"]
        value = json.loads(arguments) if self.arguments == "object" else arguments
        named = {"name": function["name"], "arguments": value}
        return {"id": self._id(call["id"]), "type": "function", "function": named}

    def _id(self, identity: str) -> str:
        if not self.short_ids or (len(identity) == SHORT_ID and identity.isascii() and identity.isalnum()):
            return identity
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:SHORT_ID]


def tool_call(identity: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a call as OpenAI's wire has it; `arguments` are JSON text."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
