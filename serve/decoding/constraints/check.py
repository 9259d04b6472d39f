"""Checks what a request asks for, in a process that may be killed: hostile input takes unbounded time or memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .grammar import build, json_grammar, text_of
from .library import GrammarError, Matchers
from .schema.locate import locate
from .schema.places import Json, SchemaError, resolve
from .schema.prepare import prepared

# the library's messages that name no keyword: the keywords that they are about, and what to say
MESSAGES = (
    ("oneOf constraints", ("oneOf",), "more than one branch of 'oneOf' may match: use 'anyOf', or a required property"
     " with a different 'const' in each branch"),
    ("min/maxProperties", ("minProperties", "maxProperties"), "it is supported only if all 'properties' are required"),
    ("regex parse error", ("pattern",), "the pattern is not supported: no lookaround and no back-references"),
    ("patternProperty", ("patternProperties",), ""),
    ("circular references", ("$ref",), "a recursive reference with other keywords beside it is not supported"),
    ("Unable to determine if regex is empty", ("pattern",), "the pattern is too complex"),
    ("multipleOf", ("multipleOf",), ""),
)  # fmt: skip


def checked(wanted: Mapping[str, Any], matchers: Matchers) -> str:
    """Return the grammar of what a request asks for, compiled once to be sure. Raises SchemaError."""
    grammar = build(wanted)
    why = fault(grammar, matchers)
    if why is None:
        return grammar
    if wanted["kind"] != "json":
        raise SchemaError("", _plain(why))
    schema = prepared(wanted["schema"])
    place, why = locate(schema, lambda part: fault(text_of(json_grammar(part)), matchers))
    raise _explained(schema, place, why)


def fault(grammar: str, matchers: Matchers) -> str | None:
    """Return why a grammar is refused, or None."""
    try:
        matchers.compile(grammar).check_start()
    except GrammarError as error:
        return str(error)
    return None


def _explained(root: Json, place: str, why: str) -> SchemaError:
    """Add the keyword to the place of a refused schema, if the message tells which."""
    part = resolve(root, f"#{place}")
    for sign, keywords, text in MESSAGES:
        if sign in why:
            keyword = next((word for word in keywords if isinstance(part, dict) and word in part), None)
            return SchemaError(f"{place}/{keyword}" if keyword else place, text or _plain(why))
    return SchemaError(place, _plain(why))


def _plain(why: str) -> str:
    """Return the library's message without the names that it gives to places."""
    return re.sub(r"json-schema:///(#/\$defs/schema)?", "#", why)[:300]
