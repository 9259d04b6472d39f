"""Convert messages with tool calls to the shape that a chat template expects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SHORT_ID = 9  # Mistral's templates reject ids of any other length


@dataclass(frozen=True)
class Shape:
    """The call shape that a template expects. `arguments`: an object or JSON text; `empty`: the content of a turn with
    calls but no text is "", null or absent; `short_ids`: ids have nine letters or digits."""

    arguments: Literal["object", "text"] = "object"
    empty: Literal["text", "null", "absent"] = "text"
    short_ids: bool = False

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Convert messages to the template's shape; `arguments` in the input may be JSON text or an object."""
        if not any("tool_calls" in message or "tool_call_id" in message for message in messages):
            return messages
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
        value = function["arguments"]
        if self.arguments == "object" and isinstance(value, str):
            value = _value(value)
        elif self.arguments == "text" and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        named = {"name": function["name"], "arguments": value}
        return {"id": self._id(call["id"]), "type": "function", "function": named}

    def _id(self, identity: str) -> str:
        if not self.short_ids or (len(identity) == SHORT_ID and identity.isascii() and identity.isalnum()):
            return identity
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:SHORT_ID]


def _value(arguments: str) -> Any:
    """Parse JSON arguments; invalid JSON is returned unchanged, for the consumer to reject."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def tool_call(identity: str, name: str, arguments: str) -> dict[str, Any]:
    """Return a call in OpenAI's format; `arguments` is JSON text."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
