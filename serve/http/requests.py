"""From a checked request to sequences: the template, the tokens, the sampling parameters."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence as Many
from typing import Any, TypeVar

from pydantic import ValidationError

from burnish.chat import TOKEN_KEYS, ChatError
from burnish.tokenizers.special_text import Chat, find_strings

from ..artefact import Served
from ..engine.sequence import SamplingParams, Sequence, Sink
from ..settings import ServeSettings
from .errors import ApiError, from_validation, too_long, unknown_model
from .schema import UNSUPPORTED, ChatRequest, CompletionRequest, Message, Sampling, Wire

DEFAULT_NAME = "default"
# what a template is given by us, so a request can't set it
RESERVED_VARIABLES = frozenset({"messages", "add_generation_prompt", *TOKEN_KEYS})
AnyWire = TypeVar("AnyWire", bound=Wire)


def parse_json(body: bytes) -> dict[str, Any]:
    """Read a request body. Raises ApiError 400 where it is no JSON object."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(
            400,
            "We could not parse the JSON body of your request: it is not valid JSON in UTF-8 (NaN is not JSON).",
        ) from None
    if not isinstance(value, dict):
        raise ApiError(400, f"The body must be a JSON object, not {type(value).__name__}.", code="invalid_type")
    return value


def parse(model: type[AnyWire], body: bytes) -> AnyWire:
    """Check a request body against its schema. Raises ApiError 400 with OpenAI's codes."""
    value = parse_json(body)
    if issubclass(model, Sampling):
        for name, what in UNSUPPORTED.items():
            if value.get(name) not in (None, [], "") and name not in model.model_fields:
                raise ApiError(400, f"'{name}': {what} not supported.", param=name, code="unsupported_parameter")
            if name not in model.model_fields:
                value.pop(name, None)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, list(model.model_fields)) from None


def check_model(name: str, served: Served) -> None:
    """Raise ApiError 404 unless the name is the served one or "default"."""
    if name not in (served.name, DEFAULT_NAME):
        raise unknown_model(name, (served.name, DEFAULT_NAME))


def chat_prompt(request: ChatRequest, served: Served, settings: ServeSettings) -> list[int]:
    """Render and tokenize the messages, with no special tokens added; those that a message spells are read as set."""
    if served.chat is None:
        raise ApiError(
            400, "This model has no chat template; use /v1/completions.", param="model", code="no_chat_template"
        )
    if len(request.messages) > settings.max_messages:
        raise ApiError(
            400, f"At most {settings.max_messages} messages.", param="messages", code="array_above_max_length"
        )
    variables = request.chat_template_kwargs or {}
    if reserved := RESERVED_VARIABLES & set(variables):
        raise ApiError(
            400, f"'{min(reserved)}' can't be set.", param=f"chat_template_kwargs.{min(reserved)}", code="invalid_value"
        )
    messages = [_plain(message) for message in request.messages]
    if served.refuse_specials:
        _refuse_specials(served.chat, messages)
    try:
        return served.chat.ids(messages, add_generation_prompt=True, **variables)
    except ChatError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from None


def _refuse_specials(chat: Chat, messages: Many[dict[str, str]]) -> None:
    """Raise ApiError 400 for the first special string that a message spells."""
    for index, field, string in find_strings(chat, messages):
        param = f"messages[{index}].{field}"
        what = f"'{string}' is a special token of this model and may not be in a message"
        raise ApiError(400, f"Invalid '{param}': {what}.", param=param, code="invalid_value")


def _plain(message: Message) -> dict[str, str]:
    """Return a message as templates expect it."""
    role = "system" if message.role == "developer" else message.role
    plain = {"role": role, "content": message.text()}
    return {**plain, "name": message.name} if message.name else plain


def completion_prompts(request: CompletionRequest, served: Served, settings: ServeSettings) -> list[list[int]]:
    """Tokenize each prompt as it is, with a beginning-of-sequence token where the model is configured for one and
    the prompt does not begin with it."""
    prompts = request.prompts()
    if not prompts:
        raise ApiError(400, "Invalid 'prompt': empty array.", param="prompt", code="empty_array")
    if len(prompts) > settings.max_choices:
        raise ApiError(400, f"At most {settings.max_choices} prompts.", param="prompt", code="array_above_max_length")
    tokenized = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids = served.model.tokenize_raw(prompt) or [max(served.model.bos_id, 0)]
        else:
            ids = prompt
            wrong = next((token for token in ids if not 0 <= token < served.model.n_vocab), None)
            if wrong is not None or not ids:
                what = f"token id {wrong} is not in the vocabulary" if ids else "an empty prompt of token ids"
                raise ApiError(400, f"Invalid 'prompt': {what}.", param="prompt", code="invalid_value")
        tokenized.append(ids)
    return tokenized


def make_sequences(
    request: ChatRequest | CompletionRequest,
    prompts: Many[list[int]],
    served: Served,
    settings: ServeSettings,
    context: int,
    sinks: Many[Sink],
) -> list[Sequence]:
    """Return one sequence for each prompt and each of the `n` answers. Raises ApiError 400 for what does not fit."""
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    n = request.n or 1
    for prompt in prompts:
        if len(prompt) >= context:
            raise too_long(len(prompt), context, param)
    asked = request.max_completion_tokens if isinstance(request, ChatRequest) else None
    most = asked or request.max_tokens or (context if param == "messages" else 16)  # 16 is OpenAI's for completions
    sequences = []
    for number, sink in enumerate(sinks):
        sequences.append(
            Sequence(
                id=uuid.uuid4().hex,
                prompt=tuple(prompts[number // n]),
                params=sampling(request, served, number),
                max_tokens=most,
                context=context,
                sink=sink,
                stream=bool(request.stream),
                stop=request.stops + served.stops,
            )
        )
    return sequences


def count(request: ChatRequest | CompletionRequest, prompts: int, settings: ServeSettings) -> int:
    """Return how many answers are asked for. Raises ApiError 400 where there are too many."""
    asked = (request.n or 1) * prompts
    if asked > settings.max_choices:
        raise ApiError(
            400, f"Invalid 'n': at most {settings.max_choices} answers.", param="n", code="integer_above_max_value"
        )
    return asked


def sampling(request: Sampling, served: Served, number: int) -> SamplingParams:
    """Return how answer `number` is sampled; with a seed, each answer of a request gets the next one."""
    bias = {int(key): value for key, value in (request.logit_bias or {}).items()}
    wrong = next((token for token in bias if token >= served.model.n_vocab), None)
    if wrong is not None:
        raise ApiError(
            400, f"Token id {wrong} is not in the vocabulary.", param=f"logit_bias.{wrong}", code="invalid_value"
        )
    logprobs: int | None = None
    if isinstance(request, ChatRequest):
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    elif isinstance(request, CompletionRequest):
        logprobs = request.logprobs
    seed = request.seed if request.seed is not None else int.from_bytes(os.urandom(4), "little")
    return SamplingParams(
        temperature=_default(request.temperature, 1.0),
        top_p=_default(request.top_p, 1.0),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repeat_penalty=_default(request.repeat_penalty, 1.0),
        repeat_last_n=64 if request.repeat_last_n is None else request.repeat_last_n,
        logit_bias=bias,
        seed=seed + number,
        logprobs=logprobs,
        ignore_eos=bool(request.ignore_eos),
    )


def _default(value: float | None, default: float) -> float:
    return default if value is None else value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
