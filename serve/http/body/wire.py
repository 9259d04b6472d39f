"""The base of all request models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Wire(BaseModel):
    """Base of all request models: unknown fields and wrong types are errors; null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """Drop null fields: SDKs send every field they know as null, even ones this server does not know."""
        if not isinstance(value, dict):
            return value
        nullable = cls._nullable()
        kept = {name for name, field in cls.model_fields.items() if field.is_required()} | nullable
        present = {name: entry for name, entry in value.items() if entry is not None or name in kept}
        return {name: entry if name in nullable else _without_nulls(entry) for name, entry in present.items()}

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        """Return the fields for which null is meaningful."""
        return frozenset()


def _without_nulls(value: Any) -> Any:
    """Return an object without its null entries; return other values unchanged."""
    if not isinstance(value, dict) or None not in value.values():
        return value
    return {name: entry for name, entry in value.items() if entry is not None}
