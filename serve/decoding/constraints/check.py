"""Check a requested constraint in a process that can be killed: hostile input may take unbounded time or memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .answer import Style
from .grammar import build, content_grammar, json_grammar, text_of
from .library import TOO_COMPLEX, GrammarError, Matchers
from .schema.locate import alone, locate
from .schema.places import Json, SchemaError, resolve, used
from .schema.prepare import prepared

# the library's messages that name no keyword: the keywords that they are about, and what to say
MESSAGES = (
    ("oneOf constraints", ("oneOf",), "more than one branch of 'oneOf' may match: use 'anyOf', or a required property"
     " with a different 'const' in each branch"),
    ("min/maxProperties", ("minProperties", "maxProperties"), "supported only if all 'properties' are required"),
    ("regex parse error", ("pattern",), ""),
    ("patternProperty", ("patternProperties",), ""),
    ("circular references", ("$ref",), "a recursive reference with sibling keywords is not supported"),
    ("Unable to determine if regex is empty", ("pattern",), "the pattern is too complex"),
    ("multipleOf", ("multipleOf",), ""),
    ("too many expressions", ("pattern",), "the pattern is too complex"),
    ("Current row has", ("properties", "anyOf"), "there are too many optional parts at one place: require more of them,"
     " or use fewer"),
)  # fmt: skip
# an object with more optional properties is tried on its own: each adds rows to the parser wherever it begins
MANY_OPTIONAL = 64
# CPU time for trying parts on their own; what it misses ends with the same error while an answer is written
PARTS_CPU_S = 0.2


@dataclass(frozen=True)
class Checker:
    """Checks requests for one model: its vocabulary, and how its template writes answers."""

    matchers: Matchers
    style: Style

    def checked(self, wanted: Mapping[str, Any]) -> str:
        """Return the grammar for a request, after compiling it once as a test. Raises SchemaError."""
        grammar = build(wanted, self.style, self._schema_fault)
        why = self.fault(grammar)
        for number, schema in _schemas(wanted):
            if self.fault(text_of(json_grammar(schema))):
                place, why = locate(schema, lambda part: self.fault(text_of(json_grammar(part))))
                raise _explained(schema, place, why, number)
            for place, part_why in self._complex_parts(schema):
                raise _explained(schema, place, part_why, number)
        content = wanted["content"]
        if why is None and wanted["chat"] and content and content["kind"] != "json":
            why = self.fault(text_of(content_grammar(content)))  # a trial of the whole may end before its content
        if why is not None:
            if content and content["kind"] == "regex":
                why = re.sub(r"^at 1\(\d+\): ", "", why)  # the place in a line that is not the client's
            raise SchemaError("", _plain(why))
        return grammar

    def _schema_fault(self, grammar: Json) -> str | None:
        """Return why the grammar of a schema is rejected, or None."""
        parts = self._complex_parts(grammar["json_schema"])
        return self.fault(text_of(grammar)) or next((why for _, why in parts), None)

    def _complex_parts(self, schema: Json) -> Iterator[tuple[str, str]]:
        """Yield the places of subschemas that a trial of the whole may miss and that can't be written, and why."""
        end = time.process_time() + PARTS_CPU_S
        for place, part in used(schema):
            for kind in _complex_kinds(part):
                if time.process_time() > end:
                    return
                why = self.fault(text_of(json_grammar(_narrowed(schema, place, kind))))
                if why is not None and why.startswith(TOO_COMPLEX):
                    yield place, why

    def fault(self, grammar: str) -> str | None:
        """Return why a grammar is rejected, or None."""
        try:
            self.matchers.compile(grammar).check()
        except GrammarError as error:
            return str(error)
        return None


def _complex_kinds(part: Json) -> Iterator[str]:
    """Yield the types whose values under this schema may be too complex to write."""
    properties, required, types = part.get("properties"), part.get("required"), part.get("type")
    optional = len(properties) if isinstance(properties, dict) else 0
    optional -= len(required) if isinstance(required, list) else 0
    kinds = {"object": "patternProperties" in part or optional > MANY_OPTIONAL, "string": "pattern" in part}
    for kind, complex_ in kinds.items():
        if complex_ and (types is None or types == kind or (isinstance(types, list) and kind in types)):
            yield kind


def _narrowed(root: Json, place: str, kind: str) -> Json:
    """Return a schema for the values of one type that the part at `place` allows."""
    made = alone(root, place)
    part = resolve(made, made.pop("$ref"))
    return {**part, **made, "type": kind}


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
