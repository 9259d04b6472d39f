"""The request of POST /v1/responses, and the chat request that has the same answer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..body.tools import MAX_NAME, UNSUPPORTED_VALUE, read_choice
from ..body.treatment import UNSUPPORTED, NoEffect, Only, Unsupported
from ..body.validation import validate
from ..body.wire import Wire
from ..errors import ApiError
from ..message import CACHED
from ..schema import ChatRequest
from .items import Input, Json, messages

STATELESS = "nothing is stored: send the items of earlier responses as `input`, and"


def _function(value: str) -> str:
    if value == "function":
        return value
    raise PydanticCustomError(UNSUPPORTED, "tools of type '{kind}' are not supported", {"kind": value[:40]})


class FunctionTool(Wire):
    """A function that the model may call."""

    type: Annotated[str, AfterValidator(_function)]
    name: Annotated[str, Field(pattern=rf"^[a-zA-Z0-9_.-]{{1,{MAX_NAME}}}$")]
    description: str | None = None
    parameters: Annotated[Json | None, Field(description="a JSON schema, shown to the model")] = None
    strict: Annotated[bool | None, Field(description="the arguments are constrained; false by default")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"parameters"})

    def for_chat(self) -> Json:
        """Return the tool of a chat request."""
        kept = {key: value for key, value in dict(self).items() if key != "type" and value is not None}
        return {"type": "function", "function": kept}


class TextFormat(Wire):
    """Free text, any JSON object, or JSON that is valid under a schema."""

    type: str = Field(description="`text`, `json_object` or `json_schema`")
    name: str | None = Field(None, description="required with `json_schema`")
    description: Annotated[str | None, NoEffect("the model does not see it")] = None
    schema_: Json | None = Field(None, alias="schema", description="required with `json_schema`")
    strict: Annotated[bool | None, NoEffect("every answer is constrained")] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"schema"})

    def for_chat(self) -> Json:
        """Return the response_format of a chat request."""
        if self.type != "json_schema":
            return {"type": self.type}
        given = {"name": self.name, "schema": self.schema_}
        return {"type": self.type, "json_schema": {key: value for key, value in given.items() if value is not None}}


class TextOptions(Wire):
    """The form of the answer's text."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, Unsupported("verbosity is", "medium")] = None


class ReasoningOptions(Wire):
    """Options of the reasoning."""

    effort: str | None = Field(None, description="passed to the template, which may ignore it")
    summary: Annotated[str | None, NoEffect("reasoning is returned whole")] = None
    generate_summary: Annotated[str | None, NoEffect("reasoning is returned whole")] = None


class StreamOptions(Wire):
    """Options of a stream."""

    include_obfuscation: Annotated[bool, NoEffect("nothing is padded")] = False


def _choice(value: Any) -> Any:
    """Return the tool_choice of a chat request."""
    if not isinstance(value, dict):
        return value
    if value.get("type") == "function":
        return _named(value)
    if value.get("type") == "allowed_tools" and isinstance(value.get("tools"), list):
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": value.get("mode"), "tools": [*map(_named, value["tools"])]},
        }
    return value


def _named(value: Any) -> Any:
    """Return {"type": "function", "name"} as a chat request has it."""
    return {"type": "function", "function": {"name": value.get("name")}} if isinstance(value, dict) else value


def _known_choice(value: Any) -> Any:
    read_choice(_choice(value))
    return value


class ResponsesRequest(Wire):
    """POST /v1/responses."""

    model: Annotated[str, Field(description="the served name or `default`; any other is a 404")]
    input: Annotated[str | Input, Field(description="a text, or items: messages, calls, results, reasoning")]
    instructions: str | None = Field(None, description="a system message before the input")
    max_output_tokens: int | None = Field(None, description="at least 1; by default as many as the context holds")
    temperature: float | None = Field(None, description="sampling temperature, 0 to 2; 1 by default, 0 is greedy")
    top_p: float | None = Field(None, description="nucleus sampling: total probability kept; 1 by default")
    tools: Annotated[
        list[FunctionTool] | None,
        Field(description="functions that the model may call, if the chat template supports tools"),
    ] = None
    tool_choice: Annotated[
        Any,
        AfterValidator(_known_choice),
        Only("`none`, `auto`, `required`, a function, or `allowed_tools`", UNSUPPORTED_VALUE),
    ] = None
    parallel_tool_calls: bool | None = Field(None, description="false allows one call")
    text: TextOptions | None = Field(None, description="`format`: `text`, `json_object` or `json_schema`")
    reasoning: ReasoningOptions | None = Field(None, description="`effort`")
    stream: bool | None = Field(None, description="typed events")
    stream_options: StreamOptions | None = Field(None, description="`include_obfuscation`, without effect")

    store: Annotated[Any, Unsupported(f"{STATELESS} `store` is", False)] = None
    previous_response_id: Annotated[Any, Unsupported(f"{STATELESS} `previous_response_id` is")] = None
    conversation: Annotated[Any, Unsupported(f"{STATELESS} `conversation` is")] = None
    background: Annotated[Any, Unsupported("responses in the background are", False)] = None
    prompt: Annotated[Any, Unsupported("stored prompts are")] = None
    truncation: Annotated[Any, Unsupported("truncation is", "disabled")] = None
    context_management: Annotated[Any, Unsupported("context management is")] = None
    max_tool_calls: Annotated[Any, Unsupported("built-in tools are")] = None
    top_logprobs: Annotated[Any, Unsupported("log-probabilities are", 0)] = None

    include: Annotated[
        list[Literal["reasoning.encrypted_content"]] | None, NoEffect("reasoning is returned as text")
    ] = None
    metadata: Annotated[dict[str, str] | None, NoEffect("returned in the response")] = None
    user: Annotated[str | None, NoEffect("no abuse is tracked")] = None
    safety_identifier: Annotated[str | None, NoEffect("no abuse is tracked")] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None, NoEffect("there is one tier")
    ] = None
    prompt_cache_key: Annotated[str | None, CACHED] = None
    prompt_cache_options: Annotated[Json | None, CACHED] = None
    prompt_cache_retention: Annotated[Literal["in-memory", "in_memory", "24h"] | None, CACHED] = None

    def for_chat(self) -> ChatRequest:
        """Return the chat request with the same answer. Raises ApiError 400, naming this request's parameters."""
        fields = {
            "model": self.model,
            "messages": messages(self.input, self.instructions),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": [tool.for_chat() for tool in self.tools] if self.tools else None,
            "tool_choice": _choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self.text.format.for_chat() if self.text and self.text.format else None,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "stream": self.stream,
        }
        try:
            return validate(ChatRequest, {name: value for name, value in fields.items() if value is not None})
        except ApiError as error:
            raise renamed(error) from None


# parameters of a chat request, and the ones here that they come from
RENAMED = (
    (r"response_format\.json_schema\b", "text.format"),
    (r"response_format\b", "text.format"),
    (r"\.function\b", ""),
    (r"max_completion_tokens\b", "max_output_tokens"),
    (r"reasoning_effort\b", "reasoning.effort"),
    (r"messages(\[\d+\][.\w\[\]]*)?", "input"),
)


def renamed(error: ApiError) -> ApiError:
    """Return a chat request's error with the names of the parameters here."""
    if not error.param:
        return error
    param = error.param
    for pattern, name in RENAMED:
        param = re.sub(pattern, name, param)
    text = error.message.replace(f"'{error.param}'", f"'{param}'")
    return ApiError(error.status, text, param=param, code=error.code, kind=error.kind, headers=error.headers)
