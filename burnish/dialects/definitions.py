"""Definitions of tools as templates get them: the same for a training row and for a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST = ("name", "description", "parameters")
# what a function has in some forms and the model has no use for; `strict` asks for constrained decoding
NOT_SHOWN = ("type", "strict")


def definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition in OpenAI's form with its keys in one order; `tool` may be the function alone.

    Templates write definitions as they get them, and a prompt must not depend on a client's order of keys.
    """
    function = tool.get("function", tool)
    kept = {key: value for key, value in function.items() if key not in NOT_SHOWN and value is not None}
    return {"type": "function", "function": {key: kept[key] for key in FIRST if key in kept} | kept}
