"""Checks a JSON schema and rewrites it for the library, without changing which values are valid."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .exclusive import exclusive
from .places import Json, SchemaError, resolve, step, used

MAX_BYTES = 256 * 1024  # of JSON text
MAX_DEPTH = 100  # of JSON nesting
# formats that llguidance enforces; all others are annotations, as JSON Schema allows
FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
# keywords of JSON Schema that can't be honoured
UNSUPPORTED = (
    "not", "if", "contains", "propertyNames", "uniqueItems", "unevaluatedItems", "unevaluatedProperties",
    "$dynamicRef", "$recursiveRef",
)  # fmt: skip
OPTIONS = "x-guidance"  # the library's own options in a schema


def prepared(schema: Any) -> Json:
    """Return a copy that llguidance supports. Raises SchemaError for unsupported parts."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise SchemaError(
            "", "a schema must be an object" if schema is not False else "no value can match the schema `false`"
        )
    if _depth(schema) > MAX_DEPTH:
        raise SchemaError("", f"the schema is nested more than {MAX_DEPTH} levels deep")
    root: Json = copy.deepcopy(schema)
    root.pop(OPTIONS, None)
    for place, part in list(used(root)):
        _check_reference(root, part, place)
        for rewrite in REWRITES:
            rewrite(root, part, place)
        if unsupported := next((keyword for keyword in UNSUPPORTED if keyword in part), None):
            raise SchemaError(f"{place}{step(unsupported)}", f"the keyword '{unsupported}' is not supported")
    return root


def _depth(value: Any) -> int:
    """Return the nesting depth of a JSON value, at most MAX_DEPTH + 1."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        parts = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level, depth = [inner for part in parts for inner in part], depth + 1
    return depth


def _check_reference(root: Json, part: Json, place: str) -> None:
    """Raise SchemaError for a reference to a different document or without a target."""
    reference = part.get("$ref")
    if reference is None:
        return
    if not isinstance(reference, str):
        raise SchemaError(f"{place}/$ref", "must be a string")
    if reference.startswith("#/") and resolve(root, reference) is None:
        raise SchemaError(f"{place}/$ref", f"'{reference[:100]}' is not in the schema")
    if "://" in reference.partition("#")[0] and not _own_ids(root) & {reference.partition("#")[0], reference}:
        raise SchemaError(f"{place}/$ref", "other documents are not fetched")


def _own_ids(root: Json) -> set[str]:
    return {str(part.get(key)).rstrip("#") for _, part in used(root) for key in ("$id", "id") if part.get(key)}


def _formats(root: Json, part: Json, place: str) -> None:
    """An unknown format is an annotation."""
    if "format" not in part:
        return
    if not isinstance(part["format"], str):
        raise SchemaError(f"{place}/format", "must be a string")
    if part["format"] not in FORMATS:
        del part["format"]


def _without_effect(root: Json, part: Json, place: str) -> None:
    """Remove keywords whose value allows everything."""
    if part.get("uniqueItems") is False or _at_most_one(part.get("maxItems")):
        part.pop("uniqueItems", None)
    for keyword in ("unevaluatedItems", "unevaluatedProperties", "propertyNames"):
        if part.get(keyword) in (True, {}, {"type": "string"}) and keyword in part:
            del part[keyword]
    if "if" not in part or not {"then", "else"} & part.keys():
        for keyword in ("if", "then", "else"):
            part.pop(keyword, None)
    if "contains" not in part:
        part.pop("minContains", None)
        part.pop("maxContains", None)
    elif part.get("minContains") == 0 and "maxContains" not in part:
        del part["contains"], part["minContains"]


def _at_most_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= 1


def _one_of(root: Json, part: Json, place: str) -> None:
    """A oneOf whose branches exclude each other is an anyOf; llguidance does not follow references to see that."""
    branches = part.get("oneOf")
    if isinstance(branches, list) and branches and (found := exclusive(root, branches)) is not None:
        if "anyOf" in part:
            del part["oneOf"]
            _add(part, {"anyOf": found})
        else:  # in its place: it may define the order of properties
            items = [("anyOf", found) if key == "oneOf" else (key, value) for key, value in part.items()]
            part.clear()
            part.update(items)


def _dependencies(root: Json, part: Json, place: str) -> None:
    """A dependency on a property: either it is absent, or its requirements apply."""
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        found = part.pop(keyword, None)
        if found is None:
            continue
        if not isinstance(found, dict):
            raise SchemaError(f"{place}/{keyword}", "must be an object")
        for name, then in found.items():
            _add(
                part, {"anyOf": [{"properties": {name: False}}, {"required": then} if isinstance(then, list) else then]}
            )


def _not_required(root: Json, part: Json, place: str) -> None:
    """{"not": {"required": ["a", "b"]}}: an object without a, or without b; also for several such schemas."""
    found = part.get("not")
    choices = found.get("anyOf") if isinstance(found, dict) and found.keys() == {"anyOf"} else [found]
    if not isinstance(choices, list) or not choices or not all(map(_only_requires, choices)):
        return
    del part["not"]
    for choice in choices:
        without = [{"type": "object", "properties": {name: False}} for name in choice["required"]]
        _add(part, {"anyOf": without} if len(without) > 1 else without[0])


def _property_names(root: Json, part: Json, place: str) -> None:
    """A schema on property names: names that match a pattern or are listed, without other property keywords."""
    names = part.get("propertyNames")
    if not isinstance(names, dict) or part.keys() & {"properties", "patternProperties"}:
        return
    rest = part.get("additionalProperties", True)
    if names.keys() - {"type"} == {"pattern"}:
        part["patternProperties"] = {names["pattern"]: rest}
    elif names.keys() - {"type"} == {"enum"} and all(isinstance(name, str) for name in names["enum"]):
        part["properties"] = dict.fromkeys(names["enum"], rest)
    else:
        return
    del part["propertyNames"]
    part["additionalProperties"] = False


def _only_requires(schema: Any) -> bool:
    required = schema.get("required") if isinstance(schema, dict) and schema.keys() == {"required"} else None
    return isinstance(required, list) and bool(required) and all(isinstance(name, str) for name in required)


def _add(part: Json, schema: Json) -> None:
    """Also require `schema`."""
    existing = part.get("allOf")
    part["allOf"] = [*(existing if isinstance(existing, list) else []), schema]


REWRITES: tuple[Callable[[Json, Json, str], None], ...] = (
    _formats, _without_effect, _one_of, _dependencies, _not_required, _property_names,
)  # fmt: skip
