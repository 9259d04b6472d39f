"""Validates a body against its schema at bounded cost: validation of a list stops at its first error."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator

from ..errors import from_validation

Model = TypeVar("Model", bound=BaseModel)
# unknown fields to validate: only one is reported, and each costs as much as a hundred known ones
MAX_UNKNOWN = 20


def validate(model: type[Model], value: dict[str, Any]) -> Model:
    """Validate a request body against its schema. Raises ApiError 400 with OpenAI's codes."""
    known = model.model_fields
    if len(value) > len(known) + MAX_UNKNOWN:
        unknown = [name for name in value if name not in known][MAX_UNKNOWN:]
        value = {name: value[name] for name in value.keys() - unknown}
    try:
        checked = _validator(model).validate_python(value)
    except ValidationError as error:
        raise from_validation(error, list(known)) from None
    assert isinstance(checked, model)
    return checked


@cache
def _validator(model: type[BaseModel]) -> SchemaValidator:
    """Return the model's validator, modified so that each list stops at its first error.

    pydantic itself collects every error of every element: half a million per megabyte, in each branch of a union.
    """
    return SchemaValidator(_fail_fast(model.__pydantic_core_schema__))


def _fail_fast(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return type(schema)(map(_fail_fast, schema))
    if not isinstance(schema, dict):
        return schema
    changed = {name: _fail_fast(part) for name, part in schema.items()}
    return {**changed, "fail_fast": True} if schema.get("type") == "list" else changed
