"""Chat request messages, with every field in OpenAI's API, including the fields of replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from burnish.rendering.shape import tool_call

from .body.tools import ToolCall
from .body.treatment import UNSUPPORTED, Extension, NoEffect, Only, Unsupported
from .body.wire import Wire

ROLES = ("system", "developer", "user", "assistant", "tool")


def known_kinds(*kinds: str) -> Callable[[str], str]:
    """Return a part type validator: accepts `kinds`; OpenAI's other types are unsupported, the rest invalid."""

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
        Unsupported("function messages are", *ROLES),
        Only("every role but `function`"),
        Field(description="a `developer` message reaches the template as `system`"),
    ]
    content: Annotated[str | list[ContentPart] | None, Field(description="may be null in an assistant message")] = None
    name: Annotated[str | None, Field(description="passed to the template")] = None
    tool_call_id: Annotated[str | None, Field(description="in a tool message: id of the call it answers")] = None

    # additional fields of reply messages, including earlier API versions
    refusal: Annotated[str | None, Field(description="text of an assistant message without content")] = None
    annotations: Annotated[list[Any] | None, NoEffect("web search is not available")] = None
    reasoning_content: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    reasoning: Annotated[str | None, Extension("vLLM"), THOUGHT] = None
    tool_calls: Annotated[list[ToolCall] | None, Field(description="tool calls of an earlier assistant message")] = None
    function_call: Annotated[Any, Unsupported("calls without an id (`function_call`) are")] = None
    audio: Annotated[Any, Unsupported("audio is")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"content"})

    @model_validator(mode="after")
    def _require_content(self) -> Message:
        if "content" not in self.model_fields_set and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"'tool_calls' is not allowed in a message of role '{self.role}'")
        for call in self.tool_calls or ():
            call.function.checked()
        return self

    def text(self) -> str:
        """Return the content as a single string, or the refusal of an assistant turn without content."""
        if isinstance(self.content, list):
            return "".join(part.plain_text for part in self.content)
        return self.content or self.refusal or ""

    def for_template(self) -> dict[str, Any]:
        """Return the message in the form that the renderer accepts; the renderer adapts calls to the template."""
        plain: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.text()}
        if self.tool_calls:
            calls = ((call.id, call.function.name, call.function.checked()) for call in self.tool_calls)
            plain["tool_calls"] = [tool_call(*call) for call in calls]
        if self.role == "tool":
            plain["tool_call_id"] = self.tool_call_id or ""
        thought = self.reasoning_content or self.reasoning
        extra = {"name": self.name, "reasoning_content": thought if self.role == "assistant" else None}
        return plain | {name: value for name, value in extra.items() if value}
