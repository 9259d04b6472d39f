"""Tools in a chat request: their definitions, the choice, and calls in the history."""

from __future__ import annotations

import json
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
    strict: Annotated[bool | None, NoEffect("arguments are not constrained yet")] = None


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


def _choice(value: Any) -> Any:
    """Accept "none" and "auto"; OpenAI's other choices require constrained decoding."""
    if value in ("none", "auto"):
        return value
    named = isinstance(value, dict) and value.get("type") in ("function", "allowed_tools", "custom")
    if value == "required" or named:
        raise PydanticCustomError(UNSUPPORTED_VALUE, "the model can't be forced to call a tool yet: use 'auto'")
    raise ValueError("expected 'none' or 'auto'")


ToolChoice = Annotated[Any, AfterValidator(_choice), Only('only `"none"` and `"auto"`', UNSUPPORTED_VALUE)]


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
