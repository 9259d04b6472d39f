"""How a request field is treated, declared with the field in the schema.

A field without a mark is honoured. `Unsupported` refuses at validation; `Only`, `NoEffect` and `Extension` describe
what schema and handlers do. docs/openai-api.md is generated from all of them.
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
    """Refuses what OpenAI's API has and this server does not honour; `harmless` are values that ask for nothing."""

    what: str
    harmless: tuple[Any, ...]

    def __init__(self, what: str, *harmless: Any) -> None:
        object.__setattr__(self, "what", what)
        object.__setattr__(self, "harmless", harmless)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """Return a value that asks for nothing. Raises PydanticCustomError for any other."""
        if value in NOTHING or value in self.harmless:
            return value
        raise PydanticCustomError(UNSUPPORTED, "{what} not supported", {"what": self.what})


@dataclass(frozen=True)
class Only:
    """Some values are taken, `values` says which in words; any other is a 400 with `code`."""

    values: str
    code: str = UNSUPPORTED


@dataclass(frozen=True)
class NoEffect:
    """The field is accepted and changes nothing; `why` says why that is safe."""

    why: str = ""


@dataclass(frozen=True)
class Extension:
    """OpenAI's API does not have the field; `source` names the servers that have it."""

    source: str
