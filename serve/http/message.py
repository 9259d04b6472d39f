"""A message of a chat request, with every field of OpenAI's API, including those of its replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .body.treatment import UNSUPPORTED, Extension, NoEffect, Only, Unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")


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
        """Return the fields in which null has a meaning."""
        return frozenset()


def _without_nulls(value: Any) -> Any:
    """Return an object without its null entries; other values unchanged."""
    if not isinstance(value, dict) or None not in value.values():
        return value
    return {name: entry for name, entry in value.items() if entry is not None}


def known_kinds(*kinds: str) -> Callable[[str], str]:
    """Return a validator of a part's type: one of `kinds`; other types of OpenAI's API are unsupported, or invalid."""

    def check(value: str) -> str:
        if value in kinds:
            return value
        if value in ("image_url", "input_audio", "file", "video_url", "audio_url"):
            raise PydanticCustomError(
                UNSUPPORTED, "{kind} parts are not supported: this model takes text only", {"kind": value}
            )
        raise ValueError(f"expected {' or '.join(map(repr, kinds))}, not {value[:40]!r}")

    return check


CACHED = NoEffect("the server caches prefixes, see `prefix_cache`")


class ContentPart(Wire):
    """A content part: text, or the refusal of an earlier assistant turn."""

    type: Annotated[str, AfterValidator(known_kinds("text", "refusal")), Only("only `text` and `refusal`")]
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[Any, Unsupported("images are")] = None
    input_audio: Annotated[Any, Unsupported("audio is")] = None
    file: Annotated[Any, Unsupported("files are")] = None
    prompt_cache_breakpoint: Annotated[dict[str, Any] | None, CACHED] = None
    cache_control: Annotated[dict[str, Any] | None, CACHED] = None

    @model_validator(mode="after")
    def _require_text(self) -> ContentPart:
        if getattr(self, self.type) is None:
            raise PydanticCustomError("missing", "Field required", {"field": self.type})
        return self

    @property
    def plain_text(self) -> str:
        """The text or refusal of the part."""
        return (self.text if self.type == "text" else self.refusal) or ""


THOUGHT = Field(description="passed to templates that use reasoning")


class Message(Wire):
    """One message. A developer message reaches the template as a system message."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool", "function"],
        Unsupported("messages of functions are", *ROLES),
        Only("every role but `function`"),
        Field(description="a `developer` message reaches the template as `system`"),
    ]
    content: Annotated[str | list[ContentPart] | None, Field(description="may be null in an assistant message")] = None
    name: Annotated[str | None, Field(description="passed to the template")] = None
    tool_call_id: Annotated[str | None, NoEffect("tool calls are not supported yet")] = None

    # further fields of messages in replies, including those of earlier API versions
    refusal: Annotated[str | None, Field(description="the text of an assistant message without content")] = None
    annotations: Annotated[list[Any] | None, NoEffect("there is no web search")] = None
    reasoning_content: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    reasoning: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    tool_calls: Annotated[list[Any] | None, Unsupported("tool calls are")] = None
    function_call: Annotated[Any, Unsupported("tool calls are")] = None
    audio: Annotated[Any, Unsupported("audio is")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"content"})

    @model_validator(mode="after")
    def _require_content(self) -> Message:
        if "content" not in self.model_fields_set and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs content")
        return self

    def text(self) -> str:
        """Return the content as one text, or the refusal of an assistant turn without content."""
        if isinstance(self.content, list):
            return "".join(part.plain_text for part in self.content)
        return self.content or self.refusal or ""

    def for_template(self) -> dict[str, str]:
        """Return the message as templates expect it."""
        plain = {"role": "system" if self.role == "developer" else self.role, "content": self.text()}
        thought = self.reasoning_content or self.reasoning
        extra = {"name": self.name, "reasoning_content": thought if self.role == "assistant" else None}
        return plain | {name: value for name, value in extra.items() if value}
