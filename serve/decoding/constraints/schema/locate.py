"""Find the part of a schema that the library rejects, since its messages do not name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .places import Json, children, resolve

# schemas to compile at most while searching
MAX_TRIALS = 100
ROOT = "schema"


def locate(root: Json, fault: Callable[[Json], str | None]) -> tuple[str, str]:
    """Return the deepest place whose schema alone is rejected, as a JSON pointer, and the reason.

    `fault` compiles a schema and returns why it is refused, or None; the whole schema is known to be.
    """
    trials = iter(range(MAX_TRIALS))
    place, schema, why, seen = "", root, fault(root) or "not supported", set[str]()
    while True:
        found = next(_refused(root, schema, place, fault, trials, seen), None)
        if found is None:
            return place, why
        place, schema, why = found


def _refused(
    root: Json, schema: Any, place: str, fault: Callable[[Json], str | None], trials: Iterator[int], seen: set[str]
) -> Iterator[tuple[str, Any, str]]:
    """Yield the parts of a schema that are rejected on their own."""
    parts = list(children(schema, place, definitions=False)) if isinstance(schema, dict) else []
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str) and resolve(root, reference) is not None:
        parts.append((reference[1:], resolve(root, reference)))
    for at, part in parts:
        if at in seen or next(trials, None) is None:
            continue
        seen.add(at)
        if part is not False and (why := fault(alone(root, at))):
            yield at, part, why


def alone(root: Json, place: str) -> Json:
    """Return a schema for the part at `place`, with references to the same targets."""
    moved = _moved({key: value for key, value in root.items() if key not in ("$id", "id", "$schema")})
    head = {"$schema": root["$schema"]} if "$schema" in root else {}
    return {**head, "$ref": f"#/$defs/{ROOT}{place}", "$defs": {ROOT: moved}}


def _moved(value: Any) -> Any:
    """Return a copy whose references point into the definition that contains the schema."""
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _reference(item) if key == "$ref" else _moved(item) for key, item in value.items()}


def _reference(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("#"):
        return f"#/$defs/{ROOT}{value[1:]}"
    return _moved(value)
