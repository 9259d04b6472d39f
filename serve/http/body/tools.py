"""Tools in a chat request: their definitions, the choice, and calls in the history."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from .treatment import UNSUPPORTED, NoEffect, Only
from .wire import Wire

MAX_NAME = 64
UNSUPPORTED_VALUE = "unsupported_value"


class FunctionDefinition(Wire):
    """A tool's name, description and parameters."""

    name: Annotated[str, Field(pattern=rf"^[a-zA-Z0-9_.-]{{1,{MAX_NAME}}}$")]
    description: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="a JSON schema, shown to the model")] = None
    strict: Annotated[bool | None, Field(description="the arguments of every call are valid")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"parameters"})  # {"const": null} in a schema has a meaning


def _function(value: str) -> str:
    if value == "function":
        return value
    raise PydanticCustomError(UNSUPPORTED, "tools of type '{kind}' are not supported", {"kind": value[:40]})


class Tool(Wire):
    """A tool that the model may call."""

    type: Annotated[str, AfterValidator(_function)]
    function: FunctionDefinition

    def definition(self) -> dict[str, Any]:
        """Return the definition as sent, without null fields."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True)}


@dataclass(frozen=True)
class Choice:
    """Whether tools may or must be called, and which ones; None means all."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: frozenset[str] | None = None
    single: bool = False  # a named function is called once


def read_choice(value: Any) -> Choice:
    """Parse `tool_choice`. Raises ValueError, and PydanticCustomError for unsupported values."""
    if value in ("none", "auto", "required"):
        return Choice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "custom":
        raise PydanticCustomError(UNSUPPORTED_VALUE, "custom tools are not supported")
    if kind == "function":
        return Choice("required", frozenset([_name(value)]), single=True)
    allowed = value.get("allowed_tools") if kind == "allowed_tools" else None
    if isinstance(allowed, dict) and allowed.get("mode") in ("auto", "required"):
        tools = allowed.get("tools")
        if isinstance(tools, list) and tools:
            return Choice(allowed["mode"], frozenset(map(_name, tools)))
    raise ValueError("expected 'none', 'auto', 'required', a function or allowed tools")


def _name(value: Any) -> str:
    """Return the name in {"type": "function", "function": {"name"}}."""
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise ValueError("expected {'type': 'function', 'function': {'name': ...}}")
    return name


def _choice(value: Any) -> Any:
    read_choice(value)
    return value


ToolChoice = Annotated[
    Any,
    AfterValidator(_choice),
    Only("`none`, `auto`, `required`, a function, or `allowed_tools` without custom tools", UNSUPPORTED_VALUE),
]


class CalledFunction(Wire):
    """The function of an earlier call."""

    name: str
    arguments: Annotated[str, Field(description="JSON text of an object")]

    def checked(self) -> str:
        """Return the arguments, or "{}" if they are empty. Raises ValueError unless they are a JSON object."""
        text = self.arguments.strip() or "{}"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError("'arguments' of a call must be the text of a JSON object")
        return text


class ToolCall(Wire):
    """A call in an earlier assistant message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Annotated[int | None, NoEffect("calls are in order")] = None
