"""Nulls added by table formats: all objects in a column get the same keys, so definitions and calls are padded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...dialects.events import Call
from .definitions import Definition
from .schema import MOST_DEPTH, argument_faults

if TYPE_CHECKING:
    from ..messages import Message

# keys of a schema under which null is a value
VALUES = frozenset({"default", "const", "enum", "examples", "example"})
# keys whose values are schemas by name
NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties"})


def without_null_schemas(tool: Definition) -> Definition:
    """Return a definition without null properties and keywords, which are invalid in a schema."""
    function = tool["function"]
    parameters = function.get("parameters")
    if not isinstance(parameters, dict):
        return tool
    return {**tool, "function": {**function, "parameters": _schema(parameters, 0)}}


def _schema(value: Any, depth: int) -> Any:
    if depth > MOST_DEPTH:
        return value
    if isinstance(value, list):
        return [_schema(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: inner for key, inner in value.items() if inner is not None or key in VALUES}
    return {key: inner if key in VALUES else _inner(key, inner, depth + 1) for key, inner in kept.items()}


def _inner(key: str, value: Any, depth: int) -> Any:
    if key in NAMED and isinstance(value, dict):  # a property may be called "default"
        return {name: _schema(schema, depth) for name, schema in value.items() if schema is not None}
    return _schema(value, depth)


def without_null_arguments(message: Message, tools: Sequence[Definition]) -> Message:
    """Return a turn without null arguments that its tools do not accept; the same turn if there are none."""
    known = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    calls = tuple(_call(call, known[call.name]) if call.name in known else call for call in message.calls)
    return message if calls == message.calls else replace(message, calls=calls)


def _call(call: Call, parameters: Mapping[str, Any]) -> Call:
    if "null" not in call.arguments:
        return call
    value = call.value()
    kept = _arguments(value, parameters, 0)
    return call if kept == value else Call(call.name, json.dumps(kept, ensure_ascii=False))


def _arguments(value: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    kept = {name: inner for name, inner in value.items() if inner is not None or _takes_null(name, known, schema)}
    return {name: _within(inner, known.get(name), depth + 1) for name, inner in kept.items()}


def _takes_null(name: str, known: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Return whether to keep a null argument: its schema allows null, or it is required (an error)."""
    if name not in known:
        return False
    required = schema.get("required")
    if isinstance(required, list) and name in required:
        return True
    return not list(argument_faults({name: None}, {"properties": {name: known[name]}}))


def _within(value: Any, schema: Any, depth: int) -> Any:
    """Return a value without nulls in objects whose properties are known."""
    if not isinstance(schema, Mapping) or depth > MOST_DEPTH:
        return value
    if isinstance(value, Mapping) and isinstance(schema.get("properties"), Mapping):
        return _arguments(value, schema, depth)
    if isinstance(value, list) and "items" in schema:
        return [_within(item, schema["items"], depth + 1) for item in value]
    return value
