"""Tool definitions as passed to templates: identical for a training row and for a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST = ("name", "description", "parameters")
# keys that some formats add to a function and the model does not need; `strict` requests constrained decoding
NOT_SHOWN = ("type", "strict")


def definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition in OpenAI's format with a fixed key order; `tool` may be the bare function.

    Templates print definitions as received, and a prompt must not depend on the client's key order.
    """
    function = tool.get("function", tool)
    kept = {key: value for key, value in function.items() if key not in NOT_SHOWN and value is not None}
    return {"type": "function", "function": {key: kept[key] for key in FIRST if key in kept} | kept}
