"""What settings are: strict classes, their leaves and types, and values with the place that gave them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from ..errors import UserError
from .foreign import Names

FILE, ENVIRONMENT, COMMAND_LINE = range(3)  # strengths of the sources


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or out of bounds."""


@dataclass(frozen=True)
class Given:
    """One value that the user gave, and where: "configs/x.yaml:12", "BURNISH_TRAIN_LORA__R" or "--lora.r".

    `strength`: a source beats those of less strength (FILE, ENVIRONMENT, COMMAND_LINE).
    """

    value: Any
    where: str
    strength: int = 0


Flat = dict[tuple[str, ...], Given]


class Strict(BaseModel):
    """Base of every settings class: unknown keys and wrong types are errors, values never change.

    `foreign` are other tools' names that the whole settings understand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    foreign: ClassVar[Names] = {}

    @classmethod
    def settle(cls, flat: Flat) -> list[str]:
        """Add the settings that the given ones imply, before validation; returns notes to print."""
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
    """Return a short name of a setting's type for help and errors, such as INT or all-linear|LIST."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return "|".join(type_name(part) for part in arguments if part is not type(None))
    if origin is typing.Literal:
        return "|".join(str(value).lower() if isinstance(value, bool) else str(value) for value in arguments)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    return str(getattr(origin or annotation, "__name__", annotation)).upper()


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the class of a setting that is a section itself."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def show(value: Any) -> str:
    """Return a value as YAML has it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def accepts(annotation: Any, kind: type) -> bool:
    """Whether a value of `kind` may stand for this annotation: itself, or a part of its union."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(accepts(part, kind) for part in typing.get_args(annotation))
    return annotation is kind or origin is kind


def words(annotation: Any) -> frozenset[str]:
    """Return the words that a setting may be; those that may only stand in a list are not among them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return frozenset(word for word in typing.get_args(annotation) if isinstance(word, str))
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return frozenset().union(*map(words, typing.get_args(annotation)))
    return frozenset()
