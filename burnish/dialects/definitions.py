"""Tool definitions as passed to templates: identical for a training row and for a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FIRST = ("name", "description", "parameters")
# keys that some formats add to a function and the model does not need; `strict` requests constrained decoding
NOT_SHOWN = ("type", "strict")
# type names as they stand in datasets → JSON's
TYPES = {
    "string": "string", "str": "string", "integer": "integer", "int": "integer", "number": "number",
    "float": "number", "double": "number", "boolean": "boolean", "bool": "boolean", "array": "array",
    "list": "array", "tuple": "array", "object": "object", "dict": "object", "null": "null", "none": "null",
}  # fmt: skip
_UNIONS = ("anyOf", "oneOf")


def definition(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition in OpenAI's format with a fixed key order; `tool` may be the bare function.

    Templates print definitions as received, and a prompt must not depend on the client's key order.
    """
    function = tool.get("function", tool)
    kept = {key: value for key, value in function.items() if key not in NOT_SHOWN and value is not None}
    return {"type": "function", "function": {key: kept[key] for key in FIRST if key in kept} | kept}


def parameters(tools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each tool's parameters by its name, from definitions in OpenAI's format."""
    return {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}


def types(schema: Any) -> frozenset[str] | None:
    """Return the JSON types that a schema allows; None if it does not say, or names an unknown one."""
    branches = next((schema[key] for key in _UNIONS if key in schema), None) if isinstance(schema, Mapping) else None
    found = [_declared(branch) for branch in (branches if isinstance(branches, list) else [schema])]
    return frozenset().union(*(names for names in found if names)) if found and all(found) else None


def _declared(schema: Any) -> frozenset[str] | None:
    given = schema.get("type") if isinstance(schema, Mapping) else None
    names = given if isinstance(given, list) else [given]
    known = [TYPES.get(name.lower()) if isinstance(name, str) else None for name in names]
    return frozenset(name for name in known if name) if all(known) else None
