"""The subschemas of a JSON schema and their places (JSON pointers)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

IN_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
SINGLE = (
    "items", "additionalItems", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
DEFINITIONS = ("$defs", "definitions")


class SchemaError(Exception):
    """Raised when a schema, or one of its keywords, can't be honoured; `place` is a JSON pointer into the schema.

    `function` is the number of the function whose parameters it is, None for the schema of an answer.
    """

    def __init__(self, place: str, why: str, function: int | None = None) -> None:
        super().__init__(why)
        self.place, self.why, self.function = place, why, function


def step(key: str | int) -> str:
    """Return one part of a JSON pointer."""
    return f"/{str(key).replace('~', '~0').replace('/', '~1')}"


def children(schema: Json, place: str, definitions: bool = True) -> Iterator[tuple[str, Any]]:
    """Yield the direct subschemas with their places; with `definitions`, also those that only a $ref uses."""
    for keyword in IN_MAPS:
        found = schema.get(keyword)
        if isinstance(found, dict) and (definitions or keyword not in DEFINITIONS):
            for name, part in found.items():
                if isinstance(part, dict | bool):  # `dependencies` may also hold lists of names
                    yield f"{place}/{keyword}{step(name)}", part
    for keyword in IN_LISTS:
        found = schema.get(keyword)
        if isinstance(found, list):
            for number, part in enumerate(found):
                yield f"{place}/{keyword}/{number}", part
    for keyword in SINGLE:
        found = schema.get(keyword)
        if isinstance(found, dict | bool):
            yield f"{place}/{keyword}", found


def resolve(root: Any, reference: Any) -> Any:
    """Resolve a reference inside the schema ("#", or "#" and a JSON pointer); None if it has no target."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found if reference == "#" or reference.startswith("#/") else None


def used(root: Json) -> Iterator[tuple[str, Json]]:
    """Yield every subschema object that validation may reach, with its place. Each is yielded once.

    Unused definitions are skipped, unless a reference has a form that is not resolved here: an anchor or an $id.
    """
    waiting: list[tuple[str, Any]] = [("", root)]
    seen, all_definitions = set[int](), False
    while waiting:
        place, schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        yield place, schema
        waiting += children(schema, place, definitions=False)
        if (reference := schema.get("$ref")) is not None:
            target = resolve(root, reference)
            if target is not None:
                waiting.append((reference[1:], target))
            elif not all_definitions:
                all_definitions = True
                waiting += [(p, s) for p, s in children(root, "") if p.split("/")[1] in DEFINITIONS]
