"""Markdown tables, and types in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

INT64 = 1 << 63
PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "object", Any: "any"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, with | escaped in cells."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a description of a type, such as `integer, at least 1`, without None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    limits = bounds(metadata)
    if origin is typing.Annotated:
        return type_text(arguments[0], [*arguments[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        parts = [type_text(part, metadata) for part in arguments if part is not type(None)]
        return (", or " if any("," in part for part in parts) else " or ").join(dict.fromkeys(parts))
    if origin is typing.Literal:
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in arguments)
    if origin is list:
        text = f"list of {type_text(arguments[0])}".removesuffix(" of any")
        return ", ".join([text, *(["not empty"] if any(map(_not_empty, metadata)) else [])])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    name = PLAIN.get(origin or annotation) or str(getattr(annotation, "__name__", annotation))
    return "64-bit integer" if "64-bit" in limits else ", ".join([name, *([limits] if limits else [])])


def bounds(metadata: Sequence[Any]) -> str:
    """Return a description of a number's bounds, or "" if there are none."""
    found: dict[str, Any] = {}
    for item in _flat(metadata):
        for kind in ("ge", "gt", "le", "lt"):
            if isinstance(item, annotated_types.BaseMetadata) and (value := getattr(item, kind, None)) is not None:
                found[kind] = value
    if abs(found.get("ge", 0)) == INT64:
        return "64-bit"
    if "ge" in found and "le" in found:
        return f"{_number(found['ge'])} to {_number(found['le'])}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{words[kind]} {_number(value)}" for kind, value in found.items())


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Yield constraints, including those inside pydantic's Field(...)."""
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else [item]


def _not_empty(item: Any) -> bool:
    return any(isinstance(part, annotated_types.MinLen) and part.min_length > 0 for part in _flat([item]))
