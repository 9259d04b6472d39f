"""How a request field is handled, declared with the field in the schema.

A field without a mark is supported. `Unsupported` rejects it in validation; `Only`, `NoEffect` and `Extension` describe
what the schema and handlers do. docs/openai-api.md is generated from these marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

NOTHING: tuple[Any, ...] = (None, [], {}, "")
UNSUPPORTED = "unsupported_parameter"


@dataclass(frozen=True, init=False)
class Unsupported:
    """Rejects a parameter of OpenAI's API that is not supported here, unless its value is empty or in `harmless`."""

    what: str
    harmless: tuple[Any, ...]

    def __init__(self, what: str, *harmless: Any) -> None:
        object.__setattr__(self, "what", what)
        object.__setattr__(self, "harmless", harmless)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """Return a harmless value unchanged. Raises PydanticCustomError for any other."""
        if value in NOTHING or value in self.harmless:
            return value
        raise PydanticCustomError(UNSUPPORTED, "{what} not supported", {"what": self.what})


@dataclass(frozen=True)
class Only:
    """Only some values are supported; `values` describes them. Any other gets a 400 with `code`."""

    values: str
    code: str = UNSUPPORTED


@dataclass(frozen=True)
class NoEffect:
    """The field is accepted and ignored; `why` says why that is safe."""

    why: str = ""


@dataclass(frozen=True)
class Extension:
    """The field is not in OpenAI's API; `source` names the servers that support it."""

    source: str
