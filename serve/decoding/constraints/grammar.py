"""Converts a requested constraint to a grammar for llguidance.

A request asks for {"content", "tools", "chat", "opened"}. `content` is what its answer must be: {"kind": "json",
"schema": ...}, {"kind": "regex", "pattern": ...}, {"kind": "choice", "choices": [...]}, {"kind": "grammar", "grammar":
...}, or None for any text. `tools` is None or {"functions": [{"name", "parameters", "strict"}], "needed", "parallel"}.
`chat` is false for raw prompts, whose answers have neither reasoning nor calls; `opened`: the prompt has opened the
reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .answer import Style, Tools, answer, spacing
from .library import from_ebnf, regex_source
from .schema.places import Json, SchemaError
from .schema.prepare import OPTIONS, prepared

MAX_BYTES = 256 * 1024  # of what a request asks for, as JSON text
# on one line, as json.dumps and most training data write JSON
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT = {"type": "object"}
# returns why the grammar of a schema is refused, or None
Fault = Callable[[Json], str | None]


def json_grammar(schema: Json, spacing: Mapping[str, str] | None = None) -> Json:
    """Return the grammar of JSON text that is valid under a prepared schema."""
    return {"json_schema": {**schema, OPTIONS: {**SPACING, **(spacing or {})}}}


def text_of(*grammars: Json) -> str:
    """Return the grammars in the library's format; the first describes the whole answer."""
    return json.dumps({"grammars": list(grammars)})


def build(wanted: Mapping[str, Any], style: Style, fault: Fault) -> str:
    """Return the grammar of an answer. Raises SchemaError for unsupported requests."""
    if len(json.dumps(wanted)) > MAX_BYTES:
        raise SchemaError("", f"the schema is larger than {MAX_BYTES:,} bytes")
    content = content_grammar(wanted["content"]) if wanted["content"] else None
    if not wanted["chat"]:
        assert content is not None
        return text_of(content)
    tools = _tools(wanted["tools"], style, fault) if wanted["tools"] else None
    return text_of(*answer(style, content, tools, wanted["opened"]))


def content_grammar(wanted: Mapping[str, Any]) -> Json:
    """Return the grammar of a requested content. Raises SchemaError for unsupported requests."""
    match wanted["kind"]:
        case "json":
            return json_grammar(prepared(wanted["schema"]))
        case "regex":
            return {"lark_grammar": f"start: /{regex_source(wanted['pattern'])}/\n"}
        case "choice":
            choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in wanted["choices"])
            return {"lark_grammar": f"start: CHOICE\nCHOICE: {choices}\n"}
        case "grammar":
            try:
                return {"lark_grammar": from_ebnf(wanted["grammar"])}
            except ValueError as error:
                raise SchemaError("", str(error)) from None
        case kind:
            raise AssertionError(kind)


def _tools(wanted: Mapping[str, Any], style: Style, fault: Fault) -> Tools:
    assert style.form is not None
    options = spacing(style.form)
    functions = wanted["functions"]
    arguments = {f["name"]: _arguments(i, f, options, fault) for i, f in enumerate(functions)}
    return Tools(arguments, wanted["needed"], wanted["parallel"])


def _arguments(number: int, function: Mapping[str, Any], options: Mapping[str, str], fault: Fault) -> Json:
    """Return the grammar of a function's arguments: an object, without `strict` any one if its schema can't be
    honoured."""
    try:
        schema = prepared(function["parameters"] or {})
        grammar = json_grammar({**schema, "type": "object"} if "type" not in schema else schema, options)
        if function["strict"] or fault(grammar) is None:
            return grammar
    except SchemaError as error:
        if function["strict"]:
            raise SchemaError(error.place, error.why, number) from None
    return json_grammar(ANY_OBJECT, options)
