"""docs/openai-api.md: routes, request fields and errors, collected from serve/http's code."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace, UnionType
from typing import Any, cast

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.fields import FieldInfo

from serve.http import schema
from serve.http.app import ROUTES
from serve.http.body.structured import JsonSchema, ResponseFormat, StructuredOutputs
from serve.http.body.treatment import UNSUPPORTED, Extension, NoEffect, Only, Unsupported
from serve.http.body.wire import Wire
from serve.http.message import ContentPart, Message
from serve.http.responses.schema import FunctionTool, TextFormat
from serve.http.service import Service

from .errors import error_table
from .markdown import table, type_text

INTRO = """\
# OpenAI API compatibility

The server's routes, how it handles every request field, and the errors it returns. This page is generated from the code
by `make reference`. [Serve in production](serve-in-production.md) explains how to use the API.

Nothing is ignored silently. A field not listed here gets a 400 `unknown_parameter` that suggests the nearest name.
`null` means that the field is absent, even for unknown fields. An unsupported field is accepted if it requests nothing:
if it is empty (`[]`, `{}`, `""`) or has one of the values in the table.

## Routes

HEAD works for every GET route. `/models`, `/completions` and `/chat/completions` work without `/v1`, and doubled or
trailing slashes don't matter.
"""
ERRORS = """\
## Errors

Every error has OpenAI's format: `{"error": {"message", "type", "param", "code"}}`. 429 has a Retry-After header, and so
has 503 if retrying helps. During a stream, an error is an event `data: {"error": ...}`, followed by `data: [DONE]`. In
the messages below, an ellipsis replaces what depends on the request.
"""
Fields = list[tuple[str, FieldInfo]]


def page() -> str:
    """Return docs/openai-api.md as text."""
    routes = list(_routes())
    requests = [(f"`{method} {route.path}`", model) for method, route in routes if (model := _request(route))]
    seen: set[type[Wire]] = set()
    parts = [INTRO, _route_table(routes)]
    for title, model in requests:
        parts.append(f"## {title}\n")
        parts.append(_same(model) or _tables(model))
        seen.add(model)
    parts += ["## Messages\n", "An entry of `messages`.\n", _tables(Message)]
    parts += ["## Content parts\n", "An entry of `content` if that is a list.\n", _tables(ContentPart)]
    parts += ["## `stream_options`\n", _tables(schema.StreamOptions)]
    parts += [
        "## `response_format`\n",
        _tables(ResponseFormat),
        "## `response_format.json_schema`\n",
        _tables(JsonSchema),
    ]
    parts += ["## `structured_outputs`\n", _tables(StructuredOutputs)]
    parts += ["## An entry of a response's `tools`\n", _tables(FunctionTool), "## `text.format`\n", _tables(TextFormat)]
    parts += [ERRORS, error_table()]
    return "\n".join(parts)


def _routes() -> Iterator[tuple[str, APIRoute]]:
    """Yield every route with its method. No server is needed to register them."""
    app = FastAPI(openapi_url=None)
    service = SimpleNamespace(served=SimpleNamespace(tokenizer=None), bodies=None)
    for module in ROUTES:
        module.add(app, cast(Service, service))
    for route in app.routes:
        if isinstance(route, APIRoute):
            yield min((route.methods or set()) - {"HEAD"}), route


def _route_table(routes: list[tuple[str, APIRoute]]) -> str:
    rows = [(f"`{method} {route.path.replace(':path', '')}`", _sentence(route.endpoint)) for method, route in routes]
    return table(("route", "description"), rows) + "\n"


def _sentence(endpoint: Any) -> str:
    return " ".join((inspect.getdoc(endpoint) or "").split()).removesuffix(".")


def _request(route: APIRoute) -> type[Wire] | None:
    """Return the schema of a handler's request body."""
    found = re.search(r"bodies\.request\((\w+),", inspect.getsource(route.endpoint))
    return cast("type[Wire]", getattr(sys.modules[route.endpoint.__module__], found[1])) if found else None


def _same(model: type[Wire]) -> str:
    """Return a sentence instead of tables if a request has the same fields as another, otherwise ""."""
    parent = model.__mro__[1]
    if not issubclass(parent, Wire) or model.model_fields.keys() != parent.model_fields.keys():
        return ""
    changed = [name for name in model.__annotations__ if name in parent.model_fields]
    optional = "".join(f"; `{name}` may be left out" for name in changed if not model.model_fields[name].is_required())
    return f"The fields of `{(parent.__doc__ or '').split(':')[0].rstrip('.')}`{optional}.\n"


def _tables(model: type[Wire]) -> str:
    named = [(info.alias or name, info) for name, info in model.model_fields.items()]
    fields = sorted(named, key=lambda item: not item[1].is_required())
    parts = []
    for title, chosen, head, row in (
        ("Supported", _supported(fields), ("field", "type", "notes"), _supported_row),
        ("Extensions", _extensions(fields), ("field", "type", "notes", "also in"), _extension_row),
        ("Accepted, without effect", _ignored(fields), ("field", "type", "reason"), _ignored_row),
        (
            "Not supported",
            _refused(fields),
            ("field", "error code (400)", "accepted values"),
            _refused_row,
        ),
    ):
        if chosen:
            parts.append(f"**{title}**\n\n{table(head, [row(name, info) for name, info in chosen])}\n")
    return "\n".join(parts)


def marks(info: FieldInfo, kind: type[Any] | UnionType) -> list[Any]:
    """Return a field's marks of one kind."""
    return [mark for mark in info.metadata if isinstance(mark, kind)]


def _supported(fields: Fields) -> Fields:
    return [
        (n, i)
        for n, i in fields
        if not marks(i, Extension | NoEffect) and (marks(i, Only) or not marks(i, Unsupported))
    ]


def _extensions(fields: Fields) -> Fields:
    return [(name, info) for name, info in fields if marks(info, Extension)]


def _ignored(fields: Fields) -> Fields:
    return [(name, info) for name, info in fields if marks(info, NoEffect)]


def _refused(fields: Fields) -> Fields:
    return [(name, info) for name, info in fields if marks(info, Unsupported) and not marks(info, Only)]


def _kind(info: FieldInfo) -> str:
    return type_text(info.annotation, info.metadata)


def _text(info: FieldInfo) -> str:
    """Return the notes in a field's declaration."""
    only = [f"{mark.values}, else 400 `{mark.code}`" for mark in marks(info, Only)]
    return "; ".join(
        [*(["required"] if info.is_required() else []), *([info.description] if info.description else []), *only]
    )


def _supported_row(name: str, info: FieldInfo) -> tuple[str, ...]:
    return f"`{name}`", _kind(info), _text(info)


def _extension_row(name: str, info: FieldInfo) -> tuple[str, ...]:
    return f"`{name}`", _kind(info), _text(info), marks(info, Extension)[0].source


def _ignored_row(name: str, info: FieldInfo) -> tuple[str, ...]:
    return f"`{name}`", _kind(info), "; ".join(filter(None, [marks(info, NoEffect)[0].why, _text(info)]))


def _refused_row(name: str, info: FieldInfo) -> tuple[str, ...]:
    values = marks(info, Unsupported)[0].harmless
    return f"`{name}`", f"`{UNSUPPORTED}`", ", ".join(f"`{_json(value)}`" for value in values)


def _json(value: Any) -> str:
    return json.dumps(value)
