"""Proves that no value is valid under both of two schemas."""

from __future__ import annotations

import json
from typing import Any

from .places import Json, resolve

MAX_DEPTH = 12
ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
# the least and the greatest keyword of a type's size
SIZES = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
    "number": ("minimum", "maximum"),
}


def disjoint(root: Json, one: Any, other: Any, depth: int = 0) -> bool:
    """Whether it is certain that no value is valid under both schemas; False if unknown."""
    if one is False or other is False:
        return True
    if depth > MAX_DEPTH or not isinstance(one, dict) or not isinstance(other, dict):
        return False
    return (
        _apart(root, one, other, depth)
        or _by_parts(root, one, other, depth + 1)
        or _by_parts(root, other, one, depth + 1)
    )


def _by_parts(root: Json, one: Json, other: Json, depth: int) -> bool:
    """Whether a required part of `one`, or each of its alternatives, excludes `other`."""
    if "$ref" in one and disjoint(root, resolve(root, one["$ref"]), other, depth):
        return True
    parts = one.get("allOf")
    if isinstance(parts, list) and any(disjoint(root, part, other, depth) for part in parts):
        return True
    choices = (one.get(keyword) for keyword in ("anyOf", "oneOf"))
    return any(isinstance(found, list) and all(disjoint(root, c, other, depth) for c in found) for found in choices)


def _apart(root: Json, one: Json, other: Json, depth: int) -> bool:
    """Whether the keywords of the two schemas exclude each other."""
    values = _values(one), _values(other)
    if values[0] is not None and values[1] is not None:
        return not values[0] & values[1]
    both = _types(one) & _types(other)
    return all(_apart_as(kind, root, one, other, depth) for kind in both)


def _values(schema: Json) -> frozenset[str] | None:
    """Return the enumerated values of a schema as JSON text, or None."""
    found = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(found, list):
        return None
    return frozenset(json.dumps(_plain(value), sort_keys=True) for value in found)


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same number."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _types(schema: Json) -> frozenset[str]:
    """Return the types that a schema allows; an integer is a number."""
    values = _values(schema)
    if values is not None:
        return frozenset(_type_of(json.loads(value)) for value in values)
    found = schema.get("type")
    names = [found] if isinstance(found, str) else found
    if not isinstance(names, list):
        return ALL_TYPES
    return frozenset("number" if name == "integer" else str(name) for name in names)


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "number"


def _apart_as(kind: str, root: Json, one: Json, other: Json, depth: int) -> bool:
    """Whether no value of a type is valid under both."""
    if kind in SIZES and (_above(kind, one, other) or _above(kind, other, one)):
        return True
    return kind == "object" and (_by_property(root, one, other, depth) or _by_property(root, other, one, depth))


def _above(kind: str, one: Json, other: Json) -> bool:
    """Whether the minimum size in `one` is above the maximum in `other`."""
    least, greatest = one.get(SIZES[kind][0]), other.get(SIZES[kind][1])
    if isinstance(least, bool) or isinstance(greatest, bool):
        return False
    return isinstance(least, int | float) and isinstance(greatest, int | float) and least > greatest


def _by_property(root: Json, one: Json, other: Json, depth: int) -> bool:
    """Whether a property required in `one` can't be valid or absent in `other`."""
    required = one.get("required")
    for name in required if isinstance(required, list) else ():
        mine, theirs = _property(one, name), _property(other, name)
        if theirs is False or disjoint(root, mine, theirs, depth + 1):
            return True
    return False


def _property(schema: Json, name: Any) -> Any:
    """Return the schema of a property; True if any value is allowed or a pattern may apply."""
    properties = schema.get("properties")
    if isinstance(properties, dict) and name in properties:
        return properties[name]
    if schema.get("patternProperties"):
        return True
    return schema.get("additionalProperties", True)
