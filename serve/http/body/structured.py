"""Fields that constrain an answer: OpenAI's response_format, and vLLM's structured_outputs and guided_*."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from .treatment import UNSUPPORTED, Extension, NoEffect, Unsupported
from .wire import Wire

Schema = dict[str, Any]
Wanted = dict[str, Any]  # as in serve.decoding.constraints.grammar
MAX_CHOICES, MAX_TEXT = 10_000, 1 << 16
OBJECT: Schema = {"type": "object"}


def _format(value: str) -> str:
    if value in ("grammar", "python"):
        raise PydanticCustomError(UNSUPPORTED, "the type '{kind}' is not supported", {"kind": value})
    if value not in ("text", "json_object", "json_schema"):
        raise ValueError("expected 'text', 'json_object' or 'json_schema'")
    return value


class JsonSchema(Wire):
    """The schema of an answer."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Annotated[str | None, NoEffect("the model does not see it")] = None
    schema_: Schema = Field(alias="schema", description="a JSON schema; an unsupported keyword is an error")
    strict: Annotated[bool | None, NoEffect("every answer is constrained")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"schema"})  # {"const": null} in a schema has a meaning


class ResponseFormat(Wire):
    """Free text, any JSON object, or JSON that is valid under a schema."""

    type: Annotated[str, AfterValidator(_format), Field(description="`text`, `json_object` or `json_schema`")]
    json_schema: JsonSchema | None = Field(None, description="required with `json_schema`")
    schema_: Annotated[Schema | None, Extension("llama.cpp")] = Field(
        None, alias="schema", description="JSON schema of the object, for `json_object`"
    )

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"schema"})

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("missing", "Field required", {"field": "json_schema"})
        if self.json_schema is not None and self.type != "json_schema":
            raise ValueError("'json_schema' is only allowed with the type 'json_schema'")
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("'schema' is only allowed with the type 'json_object'")
        return self

    def wanted(self) -> Iterator[tuple[str, Wanted]]:
        """Yield the constraints on the answer, with their parameters."""
        if self.json_schema is not None:
            yield "response_format.json_schema.schema", {"kind": "json", "schema": self.json_schema.schema_}
        elif self.type == "json_object":
            yield "response_format", {"kind": "json", "schema": OBJECT if self.schema_ is None else self.schema_}


def _schema(value: Schema | str) -> Schema:
    """Accept a schema as JSON text, as vLLM does."""
    if isinstance(value, dict):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON schema: an object, or its text")
    return found


AnySchema = Annotated[Schema | str, AfterValidator(_schema)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]


class StructuredOutputs(Wire):
    """One of vLLM's constraints."""

    json_: AnySchema | None = Field(None, alias="json", description="a JSON schema, or its text")
    json_object: bool | None = Field(None, description="any JSON object")
    regex: Text | None = Field(None, description="a regular expression that the whole completion matches")
    choice: Choices | None = Field(None, description="the texts to choose from")
    grammar: Text | None = Field(None, description="a grammar in GBNF or in llguidance's Lark syntax")
    structural_tag: Annotated[Any, Unsupported("structural tags are")] = None
    whitespace_pattern: Annotated[str | None, Unsupported("other whitespace is")] = None
    disable_any_whitespace: Annotated[bool | None, NoEffect("whitespace is fixed")] = None
    disable_fallback: Annotated[bool | None, NoEffect("there is one backend")] = None
    disable_additional_properties: Annotated[Any, Unsupported("changing the schema is", False)] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"json"})

    def wanted(self) -> Iterator[tuple[str, Wanted]]:
        """Yield the constraints on the answer, with their parameters."""
        schema = OBJECT if self.json_object and self.json_ is None else self.json_
        yield from guided("structured_outputs.", schema, self.regex, self.choice, self.grammar)


def guided(
    prefix: str, schema: Schema | str | None, regex: str | None, choice: list[str] | None, grammar: str | None
) -> Iterator[tuple[str, Wanted]]:
    """Yield the constraints in vLLM's fields whose names begin with `prefix`."""
    if schema is not None:
        yield f"{prefix}json", {"kind": "json", "schema": schema}
    if regex is not None:
        yield f"{prefix}regex", {"kind": "regex", "pattern": regex}
    if choice is not None:
        yield f"{prefix}choice", {"kind": "choice", "choices": choice}
    if grammar is not None:
        yield f"{prefix}grammar", {"kind": "grammar", "grammar": grammar}
