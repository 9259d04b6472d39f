"""OpenAI's requests, strictly: what is here works or is documented to do nothing; what is not here is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_STOPS = 4
MOST_TOP_LOGPROBS = 20
MOST_COMPLETION_LOGPROBS = 5


class Wire(BaseModel):
    """Base of every request part: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class TextPart(Wire):
    """A content part; text is the only kind that this server reads."""

    type: Literal["text"]
    text: str


class Message(Wire):
    """One message. A developer message is given to the template as a system message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _content_is_there(self) -> Message:
        if "content" not in self.model_fields_set and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs content")
        return self

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Wire):
    """`include_usage`: a last chunk with the counts; `include_obfuscation` is accepted and nothing is added."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Wire):
    """Only plain text, for now."""

    type: Literal["text"]


Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampling(Wire):
    """What chat and plain completions have in common; null is the default everywhere, as on OpenAI's wire."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # accepted, does nothing

    # extensions, with the names that llama.cpp and vLLM have
    top_k: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    ignore_eos: bool | None = None

    @field_validator("logit_bias")
    @classmethod
    def _ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        wrong = next((key for key in value or {} if not (key.isascii() and key.isdigit() and len(key) <= 10)), None)
        if wrong is not None:
            raise ValueError(f"keys must be token ids, not {wrong[:20]!r}")
        return value

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' is only allowed when 'stream' is true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; empty ones mean nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # accepted, do nothing here
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in-memory", "in_memory", "24h"] | None = None

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' is only allowed when 'logprobs' is true")
        return self


class CompletionRequest(Sampling):
    """POST /v1/completions: text, or token ids, without a template."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MOST_COMPLETION_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Literal[1] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return one entry an answer that is asked for."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [entry for entry in self.prompt if not isinstance(entry, int)]


class TokenizeRequest(Wire):
    """POST /tokenize: the ids of a text."""

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Wire):
    """POST /detokenize: the text of ids."""

    tokens: list[int]


# known on OpenAI's wire, but not honoured here: refused by name instead of "unknown parameter"
UNSUPPORTED = {
    "tools": "tool calls",
    "tool_choice": "tool calls",
    "parallel_tool_calls": "tool calls",
    "functions": "tool calls",
    "function_call": "tool calls",
    "audio": "audio",
    "prediction": "predicted outputs",
    "web_search_options": "web search",
    "reasoning_effort": "reasoning effort",
    "verbosity": "verbosity",
    "suffix": "insertion before a suffix",
}
