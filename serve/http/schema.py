"""OpenAI's requests, strictly: what is here works or is documented to do nothing; what is not here is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .message import Message, Wire, unsupported

MOST_TOP_LOGPROBS = 20
MOST_COMPLETION_LOGPROBS = 5
UNLIMITED = -1
NO_PENALTY = 1.0


class StreamOptions(Wire):
    """`include_usage`: a last chunk with the counts; `continuous_usage_stats`: the counts so far in every chunk.

    `include_obfuscation` is accepted and nothing is added.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Repetition = Annotated[float, Field(gt=0, le=10)]


def _tokens(least: int) -> AfterValidator:
    """-1 is as many as the context holds, as in llama.cpp."""

    def check(value: int) -> int:
        if value < least and value != UNLIMITED:
            raise PydanticCustomError("greater_than_equal", f"Input should be at least {least}, or -1 for no limit")
        return value

    return AfterValidator(check)


MostTokens = Annotated[int, _tokens(1)]


def _response_format(value: dict[str, Any]) -> dict[str, Any]:
    """Take plain text only; the others of OpenAI's wire are known and not honoured."""
    kind = value.get("type")
    if kind == "text" and len(value) == 1:
        return value
    if kind in ("json_object", "json_schema", "grammar", "python"):
        raise PydanticCustomError("unsupported_parameter", "the type '{kind}' is not supported", {"kind": kind})
    raise ValueError("expected {'type': 'text'}")


def _moderation(value: dict[str, Any]) -> dict[str, Any]:
    """Accept what asks for scores, which are not given; refuse what asks to block."""
    policy = value.get("policy") or {}
    if isinstance(policy, dict) and any(isinstance(p, dict) and p.get("mode") == "block" for p in policy.values()):
        raise PydanticCustomError("unsupported_parameter", "blocking by a moderation model is not supported")
    return value


class Sampling(Wire):
    """What chat and plain completions have in common; null is the default everywhere, as on OpenAI's wire."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    max_tokens: MostTokens | None = None
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
    repeat_penalty: Repetition | None = None
    repetition_penalty: Repetition | None = None
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

    @model_validator(mode="after")
    def _one_penalty(self) -> Sampling:
        given = [value for value in (self.repeat_penalty, self.repetition_penalty) if value not in (None, NO_PENALTY)]
        if len(given) == 2 and (given[0] != given[1] or self.repeat_last_n is None):
            raise ValueError(
                "'repetition_penalty' covers all tokens and 'repeat_penalty' the last 'repeat_last_n' (64 by default):"
                " give one of them, or the same value for both with 'repeat_last_n'"
            )
        return self

    @property
    def unlimited(self) -> bool:
        """Whether the context alone ends an answer that does not end by itself."""
        return self.max_tokens == UNLIMITED

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; empty ones mean nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)


class Rendering(Wire):
    """Which messages a prompt is made of, and how; names as in vLLM.

    `add_generation_prompt`: open an assistant's turn after the messages (the default); `continue_final_message`: leave
    the last message open instead, so that the answer goes on with it.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    # goes to the template, where that names it
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"chat_template_kwargs"})  # a template may tell null from absent

    @model_validator(mode="after")
    def _one_opening(self) -> Rendering:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("'continue_final_message' and 'add_generation_prompt' are mutually exclusive")
        if self.continue_final_message and not self.messages[-1].text():
            raise ValueError("'continue_final_message' needs a last message with text")
        return self

    @property
    def ending(self) -> Literal["opening", "message", "continued"]:
        """How the prompt ends: with the opening of an assistant's turn, after the last message, or within it."""
        if self.continue_final_message:
            return "continued"
        return "message" if self.add_generation_prompt is False else "opening"

    @property
    def variables(self) -> dict[str, Any]:
        """What the template gets beside the messages."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **(self.chat_template_kwargs or {})}


class ChatRequest(Sampling, Rendering):
    """POST /v1/chat/completions."""

    max_completion_tokens: MostTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: Annotated[dict[str, Any], AfterValidator(_response_format)] | None = None
    modalities: Annotated[list[Literal["text", "audio"]] | None, unsupported("audio is", ["text"])] = None

    # known on OpenAI's wire and not honoured; here are the values that ask for nothing
    tools: Annotated[list[Any] | None, unsupported("tool calls are")] = None
    tool_choice: Annotated[Any, unsupported("tool calls are", "none", "auto")] = None
    functions: Annotated[list[Any] | None, unsupported("tool calls are")] = None
    function_call: Annotated[Any, unsupported("tool calls are", "none", "auto")] = None
    audio: Annotated[Any, unsupported("audio is")] = None
    prediction: Annotated[Any, unsupported("predicted outputs are")] = None
    web_search_options: Annotated[Any, unsupported("web search is")] = None
    verbosity: Annotated[Any, unsupported("verbosity is", "medium")] = None
    moderation: Annotated[dict[str, Any] | None, AfterValidator(_moderation)] = None

    # accepted, do nothing here
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in-memory", "in_memory", "24h"] | None = None

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("'top_logprobs' is only allowed when 'logprobs' is true")
        return self

    @property
    def unlimited(self) -> bool:
        return (self.max_completion_tokens or self.max_tokens) == UNLIMITED


class TemplateRequest(ChatRequest):
    """POST /apply-template: the text that the messages of a chat request become."""

    model: str = "default"


class CompletionRequest(Sampling):
    """POST /v1/completions: text, or token ids, without a template."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, _tokens(0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_COMPLETION_LOGPROBS)] | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: Annotated[str | None, unsupported("insertion before a suffix is")] = None

    @model_validator(mode="after")
    def _every_answer_is_returned(self) -> CompletionRequest:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("'best_of' must be 'n': every answer is returned")
        return self

    @property
    def prompt_logprobs(self) -> int | None:
        """How many alternatives to each token of the prompt are wanted; None: no log-probabilities of it."""
        return self.logprobs if self.echo else None

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
