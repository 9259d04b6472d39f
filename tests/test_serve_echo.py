"""Echoed prompts, with the log-probabilities that llama.cpp computes for their tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.llama import Context, Model
from tests.support.server import ServerProcess, serving, small_model

PART = 32  # prompt tokens scored per step
TEXT = " ".join(f"The ferry to island {i} leaves at noon, and Grüße from pier {i * 7}." for i in range(12))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(max_choices=8) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open(small_model()) as opened:
        yield opened


def expected(model: Model, ids: list[int], top: int) -> list[tuple[float, list[float]]]:
    """Return each token's log-probability and the `top` highest, from llama.cpp's logits.

    The prompt is computed in the same parts as in the server: quantized arithmetic in larger ones differs by up to 0.1.
    """
    result = []
    with Context(model, n_ctx=len(ids) + 8, n_batch=PART) as context:
        for start in range(0, len(ids), PART):
            part = ids[start : start + PART]
            assert not context.decode(part, range(start, start + len(part)), [0] * len(part), [True] * len(part))
            for row, token in enumerate(ids[start + 1 : start + 1 + len(part)]):
                wide = context.logits(row).astype(np.float64)
                logs = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
                result.append((float(logs[token]), sorted(map(float, logs), reverse=True)[:top]))
    return result


def ask(server: ServerProcess, prompt: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": "default", "prompt": prompt, "echo": True, "max_tokens": 0, "temperature": 0, **fields}
    status, _, reply = server.call("POST", "/v1/completions", body)
    assert status == 200, reply
    return reply if isinstance(reply, dict) else {"events": reply.decode()}


def close(logprobs: dict[str, Any], model: Model, ids: list[int], top: int, within: float = 0.02) -> None:
    values, best = logprobs["token_logprobs"], logprobs["top_logprobs"]
    assert len(values) == len(best) == len(logprobs["tokens"]) == len(ids) and values[0] is best[0] is None
    wanted = expected(model, ids, top)
    assert np.allclose(values[1:], [value for value, _ in wanted], atol=within)
    for found, (own, greatest) in zip(best[1:], wanted, strict=True):
        assert len(found) in (top, top + 1) and np.allclose(
            sorted(found.values(), reverse=True)[:top], greatest, atol=0.05
        )
        assert any(abs(value - own) < within for value in found.values())  # the token itself is always included


def test_logprobs_of_a_long_prompt_match_llama_cpp(server: ServerProcess, model: Model) -> None:
    ids = server.call("POST", "/tokenize", {"content": TEXT})[2]["tokens"]
    assert len(ids) > 200  # several parts of the prompt
    reply = ask(server, ids, logprobs=3)
    choice = reply["choices"][0]
    close(choice["logprobs"], model, ids, 3)
    assert choice["text"] == TEXT and choice["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0 and reply["usage"]["prompt_tokens"] == len(ids)


def test_cached_prompt_tokens_have_logprobs(server: ServerProcess) -> None:
    prompt = "A prompt that is cached: " + TEXT[:400]
    first = ask(server, prompt, logprobs=1, max_tokens=1)
    plain = ask(server, prompt, max_tokens=1, echo=False)
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] > 50  # its cells can be reused
    again = ask(server, prompt, logprobs=1, max_tokens=1)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    one, two = (reply["choices"][0]["logprobs"]["token_logprobs"] for reply in (first, again))
    assert np.allclose(one[1:], two[1:], atol=0.02) and len(one) == first["usage"]["prompt_tokens"] + 1


def test_text_offsets_match_the_tokens(server: ServerProcess) -> None:
    for prompt in ("The ferry leaves at noon", "Grüße 🙂 aus Köln, 東京", "\n\n  x"):
        choice = ask(server, prompt, logprobs=0, max_tokens=3)["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
        assert text.startswith(prompt) and len(text) > len(prompt)
        offsets = [*logprobs["text_offset"], len(text)]
        assert offsets[0] == 0 and offsets == sorted(offsets)
        for token, start, end in zip(logprobs["tokens"], offsets, offsets[1:], strict=False):
            assert token.startswith("bytes:") or text[start:end] == token


def test_each_prompt_and_choice_has_its_own_echo_and_logprobs(server: ServerProcess, model: Model) -> None:
    prompts = ["One, two, three,", "A, B, C, D,"]
    reply = ask(server, prompts, logprobs=2, n=2, max_tokens=2)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    for choice in reply["choices"]:
        prompt = prompts[choice["index"] // 2]
        assert choice["text"].startswith(prompt)
        ids = server.call("POST", "/tokenize", {"content": prompt})[2]["tokens"]
        own = {name: values[: len(ids)] for name, values in choice["logprobs"].items()}
        close(own, model, ids, 2)
        assert len(choice["logprobs"]["tokens"]) == len(ids) + 2


@pytest.mark.parametrize("logprobs", [None, 2])
def test_streamed_echo_equals_the_full_echo(server: ServerProcess, logprobs: int | None) -> None:
    fields = {"logprobs": logprobs, "max_tokens": 4, "n": 2}
    whole = ask(server, "One, two, three,", **fields)
    events = ask(server, "One, two, three,", **fields, stream=True)["events"].split("\n\n")
    choices = [c for event in events if event.startswith("data: {") for c in json.loads(event[6:])["choices"]]
    for index, expected_choice in enumerate(whole["choices"]):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == expected_choice["text"]
        assert own[0]["text"] == "One, two, three,"
        for name, values in (expected_choice["logprobs"] or {}).items():
            streamed = [value for choice in own if choice["logprobs"] for value in choice["logprobs"][name]]
            if name in ("tokens", "text_offset"):
                assert streamed == values
            assert len(streamed) == len(values)


def test_echo_works_for_one_token_and_for_a_full_context(server: ServerProcess) -> None:
    one = ask(server, [504], logprobs=1)["choices"][0]["logprobs"]
    assert one["token_logprobs"] == one["top_logprobs"] == [None] and one["text_offset"] == [0]
    full = ask(server, [504] * 512, logprobs=1)
    assert len(full["choices"][0]["logprobs"]["tokens"]) == 512
    body = {"model": "default", "prompt": [504] * 512, "echo": True, "logprobs": 1, "max_tokens": 1}
    status, _, reply = server.call("POST", "/v1/completions", body)
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.slow
def test_every_prompt_is_scored_with_few_cells(tiny_gguf: Path) -> None:
    prompts = [f"Letter {i}: " + TEXT[40 * i : 40 * i + 260] for i in range(6)]
    settings = {"model": tiny_gguf, "cells": 512, "layout": "unified", "max_sequences": 6}
    with serving(**settings) as server, ThreadPoolExecutor(6) as pool:
        fields = {"logprobs": 1, "max_tokens": 200, "ignore_eos": True}
        replies = list(pool.map(lambda prompt: ask(server, prompt, **fields), prompts))
        tokens = [server.call("POST", "/tokenize", {"content": prompt})[2]["tokens"] for prompt in prompts]
        assert server.metric("burnish_preemptions_total") > 0
    with Model.open(tiny_gguf) as model:
        for reply, ids in zip(replies, tokens, strict=True):
            logprobs = reply["choices"][0]["logprobs"]
            assert len(logprobs["tokens"]) == len(ids) + 200
            close({name: values[: len(ids)] for name, values in logprobs.items()}, model, ids, 1)
