"""A message of a chat request: every field that OpenAI's wire has in one, those of its own replies too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .body.treatment import UNSUPPORTED, Extension, NoEffect, Only, Unsupported

ROLES = ("system", "developer", "user", "assistant", "tool")


class Wire(BaseModel):
    """Base of every request part: unknown fields and wrong types are errors; null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """SDKs write every field that their version knows, also those that this server does not, as null."""
        if not isinstance(value, dict):
            return value
        nullable = cls._nullable()
        kept = {name for name, field in cls.model_fields.items() if field.is_required()} | nullable
        present = {name: entry for name, entry in value.items() if entry is not None or name in kept}
        return {name: entry if name in nullable else _without_nulls(entry) for name, entry in present.items()}

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        """Return the fields in which null says something."""
        return frozenset()


def _without_nulls(value: Any) -> Any:
    """Return an object's entries without those that are null; other values as they are."""
    if not isinstance(value, dict) or None not in value.values():
        return value
    return {name: entry for name, entry in value.items() if entry is not None}


def known_kinds(*kinds: str) -> Callable[[str], str]:
    """Return a check of a part's type: one of `kinds`, another of OpenAI's (unsupported), or a wrong value."""

    def check(value: str) -> str:
        if value in kinds:
            return value
        if value in ("image_url", "input_audio", "file", "video_url", "audio_url"):
            raise PydanticCustomError(
                UNSUPPORTED, "{kind} parts are not supported: this model reads text", {"kind": value}
            )
        raise ValueError(f"expected {' or '.join(map(repr, kinds))}, not {value[:40]!r}")

    return check


CACHED = NoEffect("prefixes are always cached")


class ContentPart(Wire):
    """A content part. This server reads text, and the refusals of an assistant's earlier turns."""

    type: Annotated[str, AfterValidator(known_kinds("text", "refusal")), Only("only `text` and `refusal`")]
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[Any, Unsupported("images are")] = None
    input_audio: Annotated[Any, Unsupported("audio is")] = None
    file: Annotated[Any, Unsupported("files are")] = None
    prompt_cache_breakpoint: Annotated[dict[str, Any] | None, CACHED] = None
    cache_control: Annotated[dict[str, Any] | None, CACHED] = None

    @model_validator(mode="after")
    def _text_is_there(self) -> ContentPart:
        if getattr(self, self.type) is None:
            raise PydanticCustomError("missing", "Field required", {"field": self.type})
        return self

    @property
    def words(self) -> str:
        """The part's text."""
        return (self.text if self.type == "text" else self.refusal) or ""


THOUGHT = Field(description="goes to templates that read thoughts")


class Message(Wire):
    """One message. A developer message is given to the template as a system message."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool", "function"],
        Unsupported("messages of functions are", *ROLES),
        Only("every role but `function`"),
        Field(description="a `developer` message goes to the template as `system`"),
    ]
    content: Annotated[str | list[ContentPart] | None, Field(description="may be null in an assistant's turn")] = None
    name: Annotated[str | None, Field(description="goes to the template")] = None
    tool_call_id: Annotated[str | None, NoEffect("templates get no tool calls yet")] = None

    # what a reply's own message has besides, or had in an earlier version of the API
    refusal: Annotated[str | None, Field(description="the text of an assistant's turn without content")] = None
    annotations: Annotated[list[Any] | None, NoEffect("web search is not offered")] = None
    reasoning_content: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    reasoning: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    tool_calls: Annotated[list[Any] | None, Unsupported("tool calls are")] = None
    function_call: Annotated[Any, Unsupported("tool calls are")] = None
    audio: Annotated[Any, Unsupported("audio is")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"content"})

    @model_validator(mode="after")
    def _content_is_there(self) -> Message:
        if "content" not in self.model_fields_set and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs content")
        return self

    def text(self) -> str:
        """Return the content as one text; an assistant's turn that has none is its refusal."""
        if isinstance(self.content, list):
            return "".join(part.words for part in self.content)
        return self.content or self.refusal or ""

    def for_template(self) -> dict[str, str]:
        """Return the message as templates expect it."""
        plain = {"role": "system" if self.role == "developer" else self.role, "content": self.text()}
        thought = self.reasoning_content or self.reasoning
        extra = {"name": self.name, "reasoning_content": thought if self.role == "assistant" else None}
        return plain | {name: value for name, value in extra.items() if value}
