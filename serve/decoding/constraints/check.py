"""Check a requested constraint in a process that can be killed: hostile input may take unbounded time or memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .answer import Style
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
    ("circular references", ("$ref",), "a recursive reference with sibling keywords is not supported"),
    ("Unable to determine if regex is empty", ("pattern",), "the pattern is too complex"),
    ("multipleOf", ("multipleOf",), ""),
)  # fmt: skip


@dataclass(frozen=True)
class Checker:
    """Checks requests for one model: its vocabulary, and how its template writes answers."""

    matchers: Matchers
    style: Style

    def checked(self, wanted: Mapping[str, Any]) -> str:
        """Return the grammar for a request, after compiling it once as a test. Raises SchemaError."""
        grammar = build(wanted, self.style, self.fault)
        why = self.fault(grammar)
        if why is None:
            return grammar
        for number, schema in _schemas(wanted):
            if self.fault(text_of(json_grammar(schema))):
                place, why = locate(schema, lambda part: self.fault(text_of(json_grammar(part))))
                raise _explained(schema, place, why, number)
        raise SchemaError("", _plain(why))

    def fault(self, grammar: str) -> str | None:
        """Return why a grammar is rejected, or None."""
        try:
            self.matchers.compile(grammar).check()
        except GrammarError as error:
            return str(error)
        return None


def _schemas(wanted: Mapping[str, Any]) -> Iterator[tuple[int | None, Json]]:
    """Yield the schemas that must be honoured, with the number of the function."""
    content, tools = wanted["content"], wanted["tools"]
    if content and content["kind"] == "json":
        yield None, prepared(content["schema"])
    for number, function in enumerate(tools["functions"] if tools else ()):
        if function["strict"]:
            yield number, prepared(function["parameters"] or {})


def _explained(root: Json, place: str, why: str, function: int | None) -> SchemaError:
    """Add the keyword to the place of a rejected schema, if the message names it."""
    part = resolve(root, f"#{place}")
    for sign, keywords, text in MESSAGES:
        if sign in why:
            keyword = next((word for word in keywords if isinstance(part, dict) and word in part), None)
            return SchemaError(f"{place}/{keyword}" if keyword else place, text or _plain(why), function)
    return SchemaError(place, _plain(why), function)


def _plain(why: str) -> str:
    """Return the library's message without its internal names of places."""
    return re.sub(r"json-schema:///(#/\$defs/schema)?", "#", why)[:300]
