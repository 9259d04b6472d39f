"""OpenAI's requests. Fields listed here work or are documented as ignored; all others are rejected."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from burnish.dialects.definitions import definition

from .body.structured import AnySchema, Choices, ResponseFormat, StructuredOutputs, Text, Wanted, guided
from .body.tools import Choice, Tool, ToolChoice, read_choice
from .body.treatment import UNSUPPORTED, Extension, NoEffect, Only, Unsupported
from .body.wire import Wire
from .message import CACHED, Message

MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5
UNLIMITED = -1
NO_PENALTY = 1.0


class StreamOptions(Wire):
    """Additional content of a stream."""

    include_usage: Annotated[bool, Field(description="add a last chunk with the token counts")] = False
    continuous_usage_stats: Annotated[
        bool, Extension("vLLM"), Field(description="add the token counts so far to every chunk")
    ] = False
    include_obfuscation: Annotated[bool, NoEffect("nothing is padded")] = False


Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
# logits are divided by it: a smaller one overflows them
Repetition = Annotated[float, Field(ge=0.01, le=10)]
TopK = Annotated[int, Field(ge=-1, le=1 << 30)]
LastTokens = Annotated[int, Field(ge=-1, le=1 << 20)]
Share = Annotated[float, Field(ge=0, le=1)]


def _tokens(least: int) -> AfterValidator:
    """Accept -1 for as many tokens as the context holds, as llama.cpp does."""

    def check(value: int) -> int:
        if value < least and value != UNLIMITED:
            raise PydanticCustomError("greater_than_equal", f"Input should be at least {least}, or -1 for no limit")
        return value

    return AfterValidator(check)


MaxTokens = Annotated[int, _tokens(1)]
SAMPLING = Extension("llama.cpp, vLLM")


def _moderation(value: dict[str, Any]) -> dict[str, Any]:
    """Ignore requests for moderation scores; reject requests to block."""
    policy = value.get("policy") or {}
    if isinstance(policy, dict) and any(isinstance(p, dict) and p.get("mode") == "block" for p in policy.values()):
        raise PydanticCustomError(UNSUPPORTED, "blocking by a moderation model is not supported")
    return value


Moderation = Annotated[dict[str, Any], AfterValidator(_moderation)]


class Sampling(Wire):
    """Parameters of both chat and text completions; null means the default, as in OpenAI's API."""

    model: Annotated[str, Field(description="the served name or `default`; any other gets 404")]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="sampling temperature; 1 by default, 0 is greedy"
    )
    top_p: Share | None = Field(None, description="nucleus sampling: total probability kept; 1 by default")
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description="number of choices; at most the setting `max_choices`, over all prompts"
    )
    stop: str | list[str] | None = Field(
        None, description="texts that end the completion; at most the setting `max_stops`"
    )
    max_tokens: MaxTokens | None = Field(
        None, description="maximum tokens to generate; -1 for as many as fit in the context"
    )
    presence_penalty: Penalty | None = Field(None, description="penalty on tokens that occur in the completion")
    frequency_penalty: Penalty | None = Field(None, description="penalty per occurrence of a token in the completion")
    logit_bias: dict[str, Bias] | None = Field(None, description="biases added to logits, -100 to 100 by token id")
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = Field(
        None, description="sampling seed; -1 for a random one"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = Field(None, description="only with `stream`")
    user: Annotated[str | None, NoEffect("abuse is not tracked")] = None

    # named as in llama.cpp and vLLM
    top_k: Annotated[TopK | None, SAMPLING] = Field(
        None, description="number of most likely tokens kept; 0 or -1, the default, for no limit"
    )
    min_p: Annotated[Share | None, SAMPLING] = Field(
        None, description="minimum probability relative to the most likely token; 0 by default"
    )
    repeat_penalty: Annotated[Repetition | None, Extension("llama.cpp")] = Field(
        None, description="penalty on the last `repeat_last_n` tokens of prompt and completion"
    )
    repetition_penalty: Annotated[Repetition | None, Extension("vLLM")] = Field(
        None,
        description="penalty on all tokens of prompt and completion; not together with a different `repeat_penalty`",
    )
    repeat_last_n: Annotated[LastTokens | None, Extension("llama.cpp")] = Field(
        None, description="number of last tokens that `repeat_penalty` covers; 64 by default, -1 for all"
    )
    ignore_eos: Annotated[bool | None, SAMPLING] = Field(
        None, description="continue after end tokens, up to `max_tokens`"
    )

    # named as in vLLM
    structured_outputs: Annotated[StructuredOutputs | None, Extension("vLLM")] = Field(
        None, description="one of `json`, `json_object`, `regex`, `choice` and `grammar`"
    )
    guided_json: Annotated[AnySchema | None, Extension("vLLM")] = Field(None, description="a JSON schema, or its text")
    guided_regex: Annotated[Text | None, Extension("vLLM")] = Field(
        None, description="a regular expression that the whole completion matches"
    )
    guided_choice: Annotated[Choices | None, Extension("vLLM")] = Field(None, description="the texts to choose from")
    guided_grammar: Annotated[Text | None, Extension("vLLM")] = Field(
        None, description="a grammar in GBNF or in llguidance's Lark syntax"
    )

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"guided_json"})  # {"const": null} in a schema has a meaning

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
                " set one of them, or both to the same value with 'repeat_last_n'"
            )
        return self

    @model_validator(mode="after")
    def _one_constraint(self) -> Sampling:
        given = [param for param, _ in self.wanted()]
        if len(given) > 1:
            name = given[1].partition(".")[0]
            raise ValueError(f"'{name}' can't be combined with '{given[0]}': only one constraint is possible")
        if given and self.ignore_eos:
            raise ValueError("'ignore_eos' can't be combined with a constraint, which decides where an answer ends")
        return self

    def wanted(self) -> list[tuple[str, Wanted]]:
        """Return the constraint on the completion, with its parameter."""
        found = guided("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)
        return [*found, *(self.structured_outputs.wanted() if self.structured_outputs else ())]

    @property
    def unlimited(self) -> bool:
        """Whether only the context length limits the completion."""
        return self.max_tokens == UNLIMITED

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, without empty ones."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)


class Rendering(Wire):
    """The messages of a prompt and how to render them, named as in vLLM."""

    messages: Annotated[list[Message], Field(min_length=1, description="at most the setting `max_messages`")]
    add_generation_prompt: Annotated[bool | None, Extension("vLLM")] = Field(
        None, description="false ends the prompt after the last message instead of starting an assistant turn"
    )
    continue_final_message: Annotated[bool, Extension("vLLM")] = Field(
        False, description="the completion continues the last message; the reply contains only the new text"
    )
    chat_template_kwargs: Annotated[dict[str, Any] | None, SAMPLING] = Field(
        None, description="template variables; they override those of the run"
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="passed to the template, which may ignore it"
    )

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"chat_template_kwargs"})  # a template may distinguish null from absent

    @model_validator(mode="after")
    def _one_opening(self) -> Rendering:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("'continue_final_message' and 'add_generation_prompt' are mutually exclusive")
        if self.continue_final_message and not self.messages[-1].text():
            raise ValueError("'continue_final_message' needs a last message with text")
        return self

    @property
    def ending(self) -> Literal["opening", "message", "continued"]:
        """How the prompt ends: with the start of an assistant turn, after the last message, or inside it."""
        if self.continue_final_message:
            return "continued"
        return "message" if self.add_generation_prompt is False else "opening"

    @property
    def variables(self) -> dict[str, Any]:
        """The template's variables besides the messages."""
        effort = {"reasoning_effort": self.reasoning_effort} if self.reasoning_effort else {}
        return {**effort, **(self.chat_template_kwargs or {})}


class ChatRequest(Sampling, Rendering):
    """POST /v1/chat/completions."""

    max_completion_tokens: MaxTokens | None = Field(None, description="takes precedence over `max_tokens`")
    logprobs: bool | None = Field(None, description="the model's own, before penalties and temperature")
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="only with `logprobs`"
    )
    response_format: ResponseFormat | None = Field(
        None, description="`text`, `json_object` or `json_schema`; [answers are constrained](serve-in-production.md)"
    )
    modalities: Annotated[list[Literal["text", "audio"]] | None, Unsupported("audio is", ["text"])] = None

    # named as in vLLM
    thinking_token_budget: Annotated[int | None, Field(ge=-1), Extension("vLLM")] = Field(
        None, description="maximum reasoning tokens, after which reasoning is closed; -1 for no limit"
    )

    tools: Annotated[
        list[Tool] | None, Field(description="functions that the model may call, if the chat template supports tools")
    ] = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="false returns only the first call")

    # not supported; only the listed values, which request nothing, are accepted
    functions: Annotated[list[Any] | None, Unsupported("functions (use `tools`) are")] = None
    function_call: Annotated[Any, Unsupported("functions (use `tools`) are", "none", "auto")] = None
    audio: Annotated[Any, Unsupported("audio is")] = None
    prediction: Annotated[Any, Unsupported("predicted outputs are")] = None
    web_search_options: Annotated[Any, Unsupported("web search is")] = None
    verbosity: Annotated[Any, Unsupported("verbosity is", "medium")] = None

    moderation: Annotated[
        Moderation | None, NoEffect("no scores are given"), Only("only policies that do not block")
    ] = None
    metadata: Annotated[dict[str, str] | None, NoEffect("nothing is stored")] = None
    store: Annotated[bool | None, NoEffect("nothing is stored")] = None
    service_tier: Annotated[
        Literal["auto", "default", "flex", "scale", "priority", "fast"] | None, NoEffect("there is only one tier")
    ] = None
    safety_identifier: Annotated[str | None, NoEffect("abuse is not tracked")] = None
    prompt_cache_key: Annotated[str | None, CACHED] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, CACHED] = None
    prompt_cache_retention: Annotated[Literal["in-memory", "in_memory", "24h"] | None, CACHED] = None

    @classmethod
    def _nullable(cls) -> frozenset[str]:
        return frozenset({"chat_template_kwargs", "guided_json"})

    def wanted(self) -> list[tuple[str, Wanted]]:
        return [*super().wanted(), *(self.response_format.wanted() if self.response_format else ())]

    @model_validator(mode="after")
    def _alternatives_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("'top_logprobs' is only allowed when 'logprobs' is true")
        return self

    @model_validator(mode="after")
    def _chosen_tools_exist(self) -> ChatRequest:
        choice, known = self.choice, {tool.function.name for tool in self.tools or ()}
        if choice.mode == "required" and not known:
            raise ValueError("'tool_choice' is only allowed when 'tools' are specified")
        if unknown := sorted((choice.names or set()) - known):
            raise ValueError(f"'tool_choice' names '{unknown[0][:80]}', which is not in 'tools'")
        return self

    @property
    def choice(self) -> Choice:
        """The tools that may or must be called."""
        return Choice() if self.tool_choice is None else read_choice(self.tool_choice)

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model is shown."""
        return [] if self.choice.mode == "none" else self.tools or []

    @property
    def variables(self) -> dict[str, Any]:
        tools = {"tools": [definition(tool.definition()) for tool in self.offered]} if self.offered else {}
        return {**super().variables, **tools}

    @property
    def unlimited(self) -> bool:
        return (self.max_completion_tokens or self.max_tokens) == UNLIMITED


class TemplateRequest(ChatRequest):
    """POST /apply-template: the rendered messages of a chat request."""

    model: str = "default"


class CompletionRequest(Sampling):
    """POST /v1/completions: text or token ids, without a template."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="text or token ids; special strings in text become control tokens"
    )
    max_tokens: Annotated[int, _tokens(0)] | None = Field(
        None,
        description="maximum tokens to generate; 16 by default, 0 only processes the prompt, -1 fills the context",
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = Field(
        None, description="log-probabilities of this many tokens per position; with `echo`, also for the prompt"
    )
    echo: bool = Field(False, description="return the prompt before the completion")
    best_of: Annotated[int | None, Only("only the value of `n`", "invalid_value")] = None
    suffix: Annotated[str | None, Unsupported("insertion before a suffix is")] = None

    @model_validator(mode="after")
    def _every_answer_is_returned(self) -> CompletionRequest:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("'best_of' must equal 'n': all choices are returned")
        return self

    @property
    def prompt_logprobs(self) -> int | None:
        """The number of alternatives to report per prompt token; None: no log-probabilities of the prompt."""
        return self.logprobs if self.echo else None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [entry for entry in self.prompt if not isinstance(entry, int)]


class TokenizeRequest(Wire):
    """POST /tokenize: the ids of a text."""

    content: str
    add_special: bool = Field(False, description="add the start and end tokens that the model is configured for")
    parse_special: bool = Field(True, description="tokenize special strings as control tokens")
    with_pieces: bool = Field(False, description="return `{id, piece}` for each token")


class DetokenizeRequest(Wire):
    """POST /detokenize: the text of ids."""

    tokens: list[int]
