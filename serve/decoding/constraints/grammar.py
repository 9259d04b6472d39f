"""Turns what a request asks for into a grammar that llguidance reads.

A request asks for {"kind": "json", "schema": ...}, {"kind": "regex", "pattern": ...}, {"kind": "choice", "choices":
[...]} or {"kind": "grammar", "grammar": ...}, and may add what comes before and how JSON is spaced (see `build`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .library import from_ebnf, regex_source
from .schema.places import Json, SchemaError
from .schema.prepare import OPTIONS, prepared

MAX_BYTES = 256 * 1024  # of what a request asks for, as JSON text
BODY = "body"
# compact arrays and objects on one line, as json.dumps and most training data write them
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_grammar(schema: Json, spacing: Mapping[str, str] | None = None) -> Json:
    """Return the grammar of JSON text that is valid under a prepared schema."""
    return {"json_schema": {**schema, OPTIONS: {**SPACING, **(spacing or {})}}}


def text_of(*grammars: Json) -> str:
    """Return grammars as the library reads them; the first one is the whole answer."""
    return json.dumps({"grammars": list(grammars)})


def build(wanted: Mapping[str, Any]) -> str:
    """Return the grammar of an answer. Raises SchemaError for what can't be honoured."""
    if len(json.dumps(wanted)) > MAX_BYTES:
        raise SchemaError("", f"it has more than {MAX_BYTES:,} bytes")
    return text_of(_body(wanted))


def _body(wanted: Mapping[str, Any]) -> Json:
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
