"""Turns a request body into a validated request, and its prompts into sequences."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import TypeVar

from ..decoding.constraints.constraint import UNCONSTRAINED, Constraint, ban
from ..decoding.stop_conditions import StopConditions
from ..engine.events import Sink
from ..engine.sequence import SamplingParams, Sequence, Task
from ..served import Served
from ..settings import ServeSettings
from .body.json_body import parse_json
from .body.validation import validate
from .body.wire import Wire
from .errors import ApiError, too_long, unknown_model
from .schema import NO_PENALTY, ChatRequest, CompletionRequest, Sampling

DEFAULT_NAME = "default"
# maximum echoed tokens with log-probabilities per reply: about 30 MB of JSON
MAX_ECHOED_TOKENS = 1 << 17
COMPLETION_TOKENS = 16  # OpenAI's default for completions
RANDOM_SEED = -1  # as in llama.cpp
AnyWire = TypeVar("AnyWire", bound=Wire)


def parse(model: type[AnyWire], body: bytes) -> AnyWire:
    """Parse and validate a request body. Raises ApiError 400 with OpenAI's codes."""
    return validate(model, parse_json(body))


def check_model(name: str, served: Served) -> None:
    """Raise ApiError 404 unless the name is the served one or "default"."""
    if name not in (served.name, DEFAULT_NAME):
        raise unknown_model(name, (served.name, DEFAULT_NAME))


def make_sequences(
    request: ChatRequest | CompletionRequest,
    prompts: Many[list[int]],
    served: Served,
    context: int,
    sinks: Many[Sink],
    stream: bool = False,
    constraint: Callable[[], Constraint] | None = None,
) -> list[Sequence]:
    """Return `n` sequences for each prompt. Raises ApiError 400 for a prompt that does not fit.

    With `stream`, they report new text as it is generated. `constraint` creates the constraint of each.
    """
    n = request.n or 1
    most = max_answer_tokens(request, context)
    for prompt in prompts:
        if len(prompt) + (1 if most else 0) > context:
            raise too_long(len(prompt), context, "messages" if isinstance(request, ChatRequest) else "prompt")
    _check_echoes(request, prompts, context)
    end_tokens = frozenset[int]() if request.ignore_eos else served.end_tokens
    stop = StopConditions(most, context, request.stops + served.stop_strings, end_tokens)
    return [
        Sequence(
            id=uuid.uuid4().hex,
            prompt=tuple(prompts[number // n]),
            params=replace(sampling(request, served, number), constraint=constraint() if constraint else UNCONSTRAINED),
            stop=stop,
            sink=sink,
            stream=stream,
            task=Task.GENERATE if most else Task.PREFILL,
        )
        for number, sink in enumerate(sinks)
    ]


def max_answer_tokens(request: ChatRequest | CompletionRequest, context: int) -> int:
    """Return one choice's token limit."""
    if request.unlimited:
        return context
    if isinstance(request, ChatRequest):
        return request.max_completion_tokens or request.max_tokens or context
    return COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens


def _check_echoes(request: ChatRequest | CompletionRequest, prompts: Many[list[int]], context: int) -> None:
    """Raise ApiError 400 if the echoed prompts have too many log-probabilities for one reply."""
    if not isinstance(request, CompletionRequest) or request.prompt_logprobs is None:
        return
    total, most = sum(map(len, prompts)) * (request.n or 1), max(MAX_ECHOED_TOKENS, context)
    if total > most:
        text = f"'echo' with 'logprobs' would return {total} prompt tokens, since each choice repeats its prompt"
        param = "prompt" if request.n in (None, 1) else "n"
        advice = "Request fewer choices (n) or send fewer prompts per request."
        raise ApiError(400, f"{text}; at most {most} are allowed. {advice}", param=param, code="invalid_value")


def count(request: ChatRequest | CompletionRequest, prompts: int, settings: ServeSettings) -> int:
    """Return how many choices are requested. Raises ApiError 400 for too many choices or stop strings."""
    if len(request.stops) > settings.max_stops:
        text = f"Invalid 'stop': expected at most {settings.max_stops} stop strings, found {len(request.stops)}."
        raise ApiError(400, text, param="stop", code="array_above_max_length")
    count = (request.n or 1) * prompts
    if count > settings.max_choices:
        text = f"Invalid 'n': expected at most {settings.max_choices} choices in total, found {count}."
        raise ApiError(400, text, param="n", code="integer_above_max_value")
    return count


def sampling(request: Sampling, served: Served, number: int) -> SamplingParams:
    """Return the sampling parameters of choice `number`, which is added to the request's seed."""
    bias = {int(key): value for key, value in (request.logit_bias or {}).items()}
    wrong = next((token for token in bias if token >= served.tokenizer.vocab_size), None)
    if wrong is not None:
        raise ApiError(
            400,
            f"Invalid 'logit_bias': token id {wrong} is not in the vocabulary of {served.tokenizer.vocab_size} tokens.",
            param=f"logit_bias.{wrong}",
            code="invalid_value",
        )
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    if isinstance(request, ChatRequest):
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
    elif isinstance(request, CompletionRequest):
        logprobs = request.logprobs
        if number % (request.n or 1) == 0:  # the same for all choices of a prompt
            prompt_logprobs = request.prompt_logprobs
    seed = int.from_bytes(os.urandom(4), "little") if request.seed in (None, RANDOM_SEED) else request.seed or 0
    penalty, window = request.repeat_penalty, 64
    if request.repetition_penalty not in (None, NO_PENALTY):  # as in vLLM, over the whole sequence
        penalty, window = request.repetition_penalty, -1
    return SamplingParams(
        temperature=_default(request.temperature, 1.0),
        top_p=_default(request.top_p, 1.0),
        top_k=max(request.top_k or 0, 0),
        min_p=request.min_p or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repeat_penalty=_default(penalty, 1.0),
        repeat_last_n=window if request.repeat_last_n is None else request.repeat_last_n,
        logit_bias=ban(served.end_tokens, bias) if request.ignore_eos else bias,
        seed=seed + number,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _default(value: float | None, default: float) -> float:
    return default if value is None else value
