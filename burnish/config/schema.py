"""Settings classes, their leaves and types, and values with their sources."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from ..errors import UserError
from .foreign import Names

FILE, ENVIRONMENT, COMMAND_LINE = range(3)  # precedence of the sources


class ConfigError(UserError):
    """Raised when a setting is unknown, has the wrong type or is out of bounds."""


@dataclass(frozen=True)
class Given:
    """A value with its source: "configs/x.yaml:12", "BURNISH_TRAIN_LORA__R" or "--lora.r".

    `strength` is the source's precedence: FILE < ENVIRONMENT < COMMAND_LINE.
    """

    value: Any
    where: str
    strength: int = 0


Flat = dict[tuple[str, ...], Given]


class Strict(BaseModel):
    """Base class for settings: unknown keys and wrong types are errors, and values are immutable.

    `foreign` contains the names from other tools that are also accepted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    foreign: ClassVar[Names] = {}

    @classmethod
    def settle(cls, flat: Flat) -> list[str]:
        """Add settings implied by the given ones, before validation; return notes to print."""
        return []


Settings = TypeVar("Settings", bound=Strict)


def fields(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf setting as (key path, pydantic FieldInfo), nested sections included."""
    for name, info in model.model_fields.items():
        if nested := section(info.annotation):
            yield from fields(nested, (*prefix, name))
        else:
            yield (*prefix, name), info


def type_name(annotation: Any) -> str:
    """Return a short name for a setting's type in help and errors, such as INT or all-linear|LIST."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return "|".join(type_name(part) for part in arguments if part is not type(None))
    if origin is typing.Literal:
        return "|".join(str(value).lower() if isinstance(value, bool) else str(value) for value in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    return str(getattr(origin or annotation, "__name__", annotation)).upper()


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class if the setting is a section, else None."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def show(value: Any) -> str:
    """Return a value in YAML notation."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def accepts(annotation: Any, kind: type) -> bool:
    """Return whether the annotation, or a member of its union, accepts values of `kind`."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(accepts(part, kind) for part in typing.get_args(annotation))
    return annotation is kind or origin is kind


def words(annotation: Any) -> frozenset[str]:
    """Return the literal words that a setting accepts, except those valid only in a list."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return frozenset(word for word in typing.get_args(annotation) if isinstance(word, str))
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return frozenset().union(*map(words, typing.get_args(annotation)))
    return frozenset()
