"""Multiple choice by likelihood: the model's answer is the option with the highest log-probability."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from burnish.chat import ChatError
from burnish.data.columns.cells import CellFault, CellLimit, Template, filled, unknown_names
from burnish.data.tables import parsed_list

from ..batch.answering import Ask
from ..batch.endpoints import COMPLETIONS, Endpoint, Refused
from ..batch.local import LocalEndpoint
from ..batch.prompts import Prompt
from ..batch.results import Answer, Result
from ..engine.tokenizer import PromptTooLong
from .scorers import Against, ScoreError

COLUMN = "options"
MAX_OPTIONS = 26


def options_of(prompts: Sequence[Prompt], templates: Sequence[str] | None, against: Against) -> list[list[str]]:
    """Return each row's options. Raises ScoreError unless each has several, one of them the correct answer."""
    parts = [Template(text, f"options[{number}]") for number, text in enumerate(templates or ())]
    names = list(dict.fromkeys(name for prompt in prompts for name in prompt.value))
    if faults := unknown_names(parts, names, "the rows"):
        raise ScoreError(faults)
    found: list[list[str]] = []
    faults = []
    for prompt in prompts:
        options, fault = _options(prompt, parts)
        fault = fault or _fault(options, (against.text(prompt) or "").strip())
        faults += [f"{prompt.where}: {fault}"] if fault else []
        found.append(options)
    if faults:
        raise ScoreError(faults)
    return found


def _options(prompt: Prompt, parts: Sequence[Template]) -> tuple[list[str], str]:
    """Return a row's options, and an error message or ""."""
    try:
        if parts:
            cells = filled(prompt.value, [name for part in parts for name, _ in part.names()])
            return [text for part in parts if (text := part.render(cells)).strip()], ""
    except CellLimit as error:
        raise ScoreError(f"{prompt.where}: {error}") from None
    except CellFault as error:
        return [], str(error)
    value: Any = prompt.value.get(COLUMN)
    value = parsed_list(value, []) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return [], f"no list of texts in the column '{COLUMN}': set --options, such as 'A,B,C,D'"
    return list(value), ""


def _fault(options: Sequence[str], right: str) -> str:
    plain = [option.strip() for option in options]
    if not 2 <= len(plain) <= MAX_OPTIONS:
        return f"expected 2 to {MAX_OPTIONS} options, got {len(plain)}"
    if len(set(plain)) < len(plain):
        return "two options are the same"
    if "" in plain:
        return "an option is empty"
    return (
        ""
        if right in plain
        else f"the correct answer '{right[:60]}' is not one of the options: {', '.join(plain)[:200]}"
    )


def choosing(options: Sequence[Sequence[str]], per_character: bool) -> Ask:
    """Return a function that answers each prompt with its most likely option."""

    async def ask(endpoint: Endpoint, prompt: Prompt) -> Result:
        assert isinstance(endpoint, LocalEndpoint)
        started, tokens = time.monotonic(), 0
        scores: list[float] = []
        for option in options[prompt.number]:
            score, count = await _likelihood(endpoint, prompt, option)
            scores.append(score / len(option) if per_character else score)
            tokens += count
        best = max(range(len(scores)), key=scores.__getitem__)
        answer = Answer(options[prompt.number][best], "choice", logprobs=tuple(scores))
        return Result(
            (answer,), tokens, 0, seconds=round(time.monotonic() - started, 4), finished=round(time.time(), 4)
        )

    return ask


async def _likelihood(endpoint: LocalEndpoint, prompt: Prompt, option: str) -> tuple[float, int]:
    """Return log p(option | prompt) in nats, and the number of processed tokens.

    The option is the start of the answer; the end of the turn is not counted. Tokens are compared, not text: the
    option's tokens are those after the prompt's.
    """
    try:
        before, whole = await endpoint.prompt_ids(prompt, ""), await endpoint.prompt_ids(prompt, option)
    except (PromptTooLong, ChatError) as error:
        raise Refused(str(error)) from None
    same = next(
        (n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
    )
    if same >= len(whole):
        raise Refused(f"the option {option[:40]!r} adds no token to the prompt")
    reply = await endpoint.ask(COMPLETIONS, {"prompt": whole, "echo": True, "logprobs": 0, "max_tokens": 0})
    values = reply["choices"][0]["logprobs"]["token_logprobs"][same:]
    return float(sum(value for value in values if value is not None)), len(whole)
