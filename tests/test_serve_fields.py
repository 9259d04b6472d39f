"""Request fields: fields without effect are accepted, unsupported ones are rejected by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import ServerProcess, serving

ASK: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 2}
RAW: dict[str, Any] = {"model": "default", "prompt": "Once", "max_tokens": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving(context_length=256, max_stops=9) as running:
        yield running


def chat(server: ServerProcess, **fields: Any) -> tuple[int, Any]:
    status, _, reply = server.call("POST", "/v1/chat/completions", {**ASK, **fields})
    return status, reply


def raw(server: ServerProcess, **fields: Any) -> tuple[int, Any]:
    status, _, reply = server.call("POST", "/v1/completions", {**RAW, **fields})
    return status, reply


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
        {"tool_choice": "auto", "parallel_tool_calls": True, "functions": [], "function_call": "none"},
        {"reasoning_effort": "low", "verbosity": "medium"},
        {"reasoning_effort": "none", "moderation": {"model": "omni-moderation-latest"}},
        {"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}, "service_tier": "scale"},
        {"top_logprobs": 0, "stream_options": None, "modalities": ["text"], "audio": None},
        {"repetition_penalty": 1.1},
        {"repetition_penalty": 1.1, "repeat_penalty": 1.1, "repeat_last_n": 32},
        {"repetition_penalty": 1.1, "repeat_penalty": 1.0},
        {"metadata": {"a": None, "b": "x"}, "logit_bias": {"5": None}},
        {"response_format": {"type": "text", "json_schema": None}},
        {"response_format": {"type": "text"}, "logit_bias": {}, "stop": []},
        {"unheard_of": None},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_fields_without_effect_are_accepted(server: ServerProcess, fields: dict[str, Any]) -> None:
    status, reply = chat(server, **fields)
    assert status == 200, reply


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice", "unsupported_value"),
        ({"tool_choice": "atuo"}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "grammar"}}, "response_format.type", "unsupported_parameter"),
        ({"response_format": {"type": "jsn"}}, "response_format.type", "invalid_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"moderation": {"model": "m", "policy": {"input": {"mode": "block"}}}}, "moderation", "unsupported_parameter"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.1}, "repetition_penalty", "invalid_value"),
        ({"max_tokens": -2}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"stop": list("abcdefghij")}, "stop", "array_above_max_length"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort", "invalid_value"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "invalid_value",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_unsupported_field_is_rejected_by_name(
    server: ServerProcess, fields: dict[str, Any], param: str, code: str
) -> None:
    status, reply = chat(server, **fields)
    assert (status, reply["error"]["param"], reply["error"]["code"]) == (400, param, code), reply


def test_max_tokens_minus_one_fills_the_context(server: ServerProcess) -> None:
    for ask in (chat, raw):
        status, reply = ask(server, max_tokens=-1, ignore_eos=True)
        assert status == 200 and reply["usage"]["total_tokens"] == 256
    status, reply = chat(server, max_completion_tokens=-1, ignore_eos=True)
    assert reply["choices"][0]["finish_reason"] == "length" and reply["usage"]["total_tokens"] == 256


def test_max_completion_tokens_takes_precedence(server: ServerProcess) -> None:
    for newer, tokens in ((5, 5), (-1, None)):
        status, reply = chat(server, max_tokens=-1 if newer > 0 else 5, max_completion_tokens=newer, ignore_eos=True)
        assert status == 200 and reply["usage"]["completion_tokens"] == (
            tokens or 256 - reply["usage"]["prompt_tokens"]
        )


def test_max_tokens_0_processes_only_the_prompt(server: ServerProcess) -> None:
    status, reply = raw(server, max_tokens=0)
    assert status == 200 and reply["choices"][0]["text"] == "" and reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0 and reply["usage"]["prompt_tokens"] == 1
    events = server.call("POST", "/v1/completions", {**RAW, "max_tokens": 0, "stream": True})[2].decode()
    assert '"finish_reason":"length"' in events and events.endswith("data: [DONE]\n\n")


def test_seed_minus_one_is_random(server: ServerProcess) -> None:
    def texts(seed: int) -> set[str]:
        request = {"max_tokens": 16, "temperature": 1.5, "n": 2, "seed": seed}
        return {c["text"] for _ in range(2) for c in raw(server, **request)[1]["choices"]}

    assert len(texts(-1)) == 4


def test_more_than_four_stop_strings_are_supported(server: ServerProcess) -> None:
    text = chat(server, max_tokens=12, temperature=0)[1]["choices"][0]["message"]["content"]
    stop = [f"never {i}" for i in range(8)] + [text[4:7]]
    status, reply = chat(server, max_tokens=12, temperature=0, stop=stop)
    assert status == 200 and reply["choices"][0]["message"]["content"] == text[: text.index(text[4:7])]


def test_repetition_penalty_covers_the_whole_sequence(server: ServerProcess) -> None:
    request = {"prompt": "a b a b a b a b a b", "max_tokens": 8, "temperature": 0}
    plain, penalized = raw(server, **request)[1], raw(server, **request, repetition_penalty=1.8)[1]
    same = raw(server, **request, repeat_penalty=1.8, repeat_last_n=-1)[1]
    assert plain["choices"][0]["text"] != penalized["choices"][0]["text"] == same["choices"][0]["text"]


def test_continuous_usage_stats_add_usage_to_every_chunk(server: ServerProcess) -> None:
    import json

    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, body in (("/v1/chat/completions", ASK), ("/v1/completions", RAW)):
        request = {**body, "max_tokens": 40, "ignore_eos": True, "stream": True, "stream_options": options}
        events = server.call("POST", path, request)[2].decode().split("\n\n")[:-2]
        usages = [json.loads(event[6:])["usage"] for event in events]
        counts = [usage["completion_tokens"] for usage in usages]
        # Several tokens may share a chunk: an incomplete character waits for the next token.
        assert counts == sorted(counts) and counts[-1] == 40 and len(set(counts)) > 2
        assert all(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)


def test_continue_final_message_continues_the_assistant_message(server: ServerProcess) -> None:
    begun = [*ASK["messages"], {"role": "assistant", "content": "One, two, three, four,"}]
    status, reply = chat(server, messages=begun, continue_final_message=True, max_tokens=2, temperature=0)
    assert status == 200 and reply["choices"][0]["message"]["content"].startswith(" five")
    body = {"messages": begun, "continue_final_message": True}
    assert server.call("POST", "/apply-template", body)[2]["prompt"].endswith("assistant\nOne, two, three, four,")
    closed = server.call("POST", "/apply-template", {"messages": begun, "add_generation_prompt": False})[2]["prompt"]
    opened = server.call("POST", "/apply-template", {**ASK, "messages": begun})[2]["prompt"]
    assert closed.endswith("four,<|im_end|>\n") and opened == closed + "<|im_start|>assistant\n"
    spelled = [*ASK["messages"], {"role": "assistant", "content": "a <|im_end|> b "}]
    rendered = server.call("POST", "/apply-template", {"messages": spelled, "continue_final_message": True})[2]
    assert rendered["prompt"].endswith("a <|im_end|> b ")
    assert chat(server, messages=spelled, continue_final_message=True)[0] == 200


def test_apply_template_returns_the_rendered_prompt(server: ServerProcess) -> None:
    text = server.call("POST", "/apply-template", ASK)[2]["prompt"]
    ids = server.call("POST", "/tokenize", {"content": text})[2]["tokens"]
    assert chat(server)[1]["usage"]["prompt_tokens"] == len(ids)
    status, _, reply = server.call("POST", "/apply-template", {"messages": []})
    assert (status, reply["error"]["code"]) == (400, "empty_array")
