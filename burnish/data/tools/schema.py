"""Check a call's arguments against its tool's parameters: missing, unknown, or of the wrong type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...dialects.comparison import same_json
from ...dialects.definitions import TYPES
from ...errors import nearest
from ..faults import kind

_PYTHON: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
    "null": type(None),
}
# schemas in one another that are followed
MOST_DEPTH = 16
MOST_SHOWN = 60


def argument_faults(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per error in a call's arguments; unsupported schema keywords are not checked."""
    yield from _object(arguments, parameters, "", 0)


def _object(value: Mapping[str, Any], schema: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            yield f"the argument '{path}{name}' is missing"
    for name, inner in value.items():
        if name in known:
            yield from _value(inner, known[name], f"{path}{name}", depth + 1)
        elif (near := nearest(name, known.keys() - value.keys())) or schema.get("additionalProperties") is False:
            yield f"the argument '{path}{name}' is unknown" + (f"; did you mean '{near}'?" if near else "")


def _value(value: Any, schema: Any, path: str, depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or depth > MOST_DEPTH:
        return
    if isinstance(branches := schema.get("anyOf") or schema.get("oneOf"), list):
        if not any(not list(_value(value, branch, path, depth + 1)) for branch in branches):
            yield f"the argument '{path}' is {kind(value)}, which matches none of its types"
        return
    if value is None and schema.get("nullable") is True:
        return
    types = _types(schema.get("type"))
    if types and not any(_is(value, name) for name in types):
        yield f"the argument '{path}': expected {' or '.join(types)}, got {kind(value)}"
        return
    options = schema.get("enum")
    if isinstance(options, list) and options and not any(same_json(value, option) for option in options):
        named = ", ".join(map(repr, options))
        yield f"the argument '{path}': expected one of {named[:MOST_SHOWN]}, got {value!r}"
    if isinstance(value, Mapping):
        yield from _object(value, schema, f"{path}.", depth)
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value, start=1):
            yield from _value(item, schema["items"], f"{path}[{number}]", depth + 1)


def _types(given: Any) -> list[str]:
    """Return the types in a schema; empty if one of them is unknown."""
    names = given if isinstance(given, list) else [given]
    found = [TYPES.get(name.lower(), "") if isinstance(name, str) else "" for name in names]
    return found if all(found) else []


def _is(value: Any, type: str) -> bool:
    if isinstance(value, bool):
        return type == "boolean"
    if isinstance(value, float) and type == "integer":
        return value.is_integer()
    return type in _PYTHON and isinstance(value, _PYTHON[type])
