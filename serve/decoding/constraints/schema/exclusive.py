"""Branches of a oneOf that exclude each other."""

from __future__ import annotations

from typing import Any

from .disjoint import disjoint
from .places import Json, resolve

MAX_BRANCHES = 40


def exclusive(root: Json, branches: list[Any]) -> list[Any] | None:
    """Return equivalent branches that exclude each other, so that they can form an anyOf; None if unknown.

    Branches that exclude each other are returned unchanged. Of two that don't, each gets an object without a property
    that only the other requires: fewer values than the oneOf allows, but each of them is valid.
    """
    if len(branches) > MAX_BRANCHES:
        return None
    forbidden: list[set[str]] = [set() for _ in branches]
    for i, one in enumerate(branches):
        for j, other in enumerate(branches[:i]):
            if disjoint(root, one, other):
                continue
            mine, theirs = _required(root, one), _required(root, other)
            if not mine - theirs or not theirs - mine:
                return None
            forbidden[i].add(min(theirs - mine))
            forbidden[j].add(min(mine - theirs))
    return [_without(branch, names) for branch, names in zip(branches, forbidden, strict=True)]


def _required(root: Json, schema: Any) -> set[str]:
    """Return the required properties of an object schema."""
    schema = resolve(root, schema["$ref"]) if isinstance(schema, dict) and "$ref" in schema else schema
    required = schema.get("required") if isinstance(schema, dict) else None
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()


def _without(branch: Any, names: set[str]) -> Any:
    if not names:
        return branch
    return {"allOf": [branch, {"type": "object", "properties": dict.fromkeys(sorted(names), False)}]}
