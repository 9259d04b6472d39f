"""Tools in the API: definitions, calls in full and streamed replies, and results as history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from burnish.dialects.find import Found
from burnish.dialects.formats import DIALECTS
from burnish.dialects.thoughts import FORMATS
from tests.support.echo_server import EchoServer, echoing
from tests.support.server import serving
from tests.support.tool_templates import TEMPLATES
from tools import tiny_gguf

HERMES = Found(DIALECTS["hermes"], FORMATS["think"], defines=True, parallel=True, results=True)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = {"city": "Zürich", "days": [1, 2], "note": "</tool_call>"}
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": ?}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with echoing(dialects=HERMES) as running:
        yield running


def client_of(server: EchoServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(server: EchoServer) -> openai.OpenAI:
    return client_of(server)


def ask(client: openai.OpenAI, answer: str, **fields: Any) -> Any:
    """Send a request to the echo server."""
    messages = [{"role": "user", "content": answer}]
    return client.chat.completions.create(**{"model": "default", "messages": messages, "tools": [TOOL], **fields})


def joined(chunks: Any) -> tuple[dict[str, str], dict[int, dict[str, str]], str | None]:
    """Return the texts of a stream, its calls by index, and how it ends."""
    texts, calls, finish = {"content": "", "reasoning_content": ""}, dict[int, dict[str, str]](), None
    for chunk in chunks:
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for key in texts:
            texts[key] += getattr(choice.delta, key, None) or ""
        for call in choice.delta.tool_calls or ():
            if call.id:
                assert call.index not in calls and call.type == "function"
                calls[call.index] = {"id": call.id, "name": call.function.name, "arguments": ""}
            calls[call.index]["arguments"] += call.function.arguments
    return texts, calls, finish


def test_full_reply_contains_parsed_tool_calls(client: openai.OpenAI) -> None:
    choice = ask(client, f"<think>\nHm.\n</think>\n\n{CALL}\n{CALL}").choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None and choice.message.reasoning_content == "Hm."
    calls = choice.message.tool_calls
    assert [(c.type, c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("function", "weather", ARGUMENTS)
    ] * 2
    assert len({c.id for c in calls}) == 2 and all(c.id.startswith("call_") for c in calls)


def test_streamed_tool_calls_send_id_and_name_first_and_once(client: openai.OpenAI) -> None:
    chunks = list(ask(client, f"<think>Hm.</think>Look:\n{CALL}\n{CALL}", stream=True))
    texts, calls, finish = joined(chunks)
    assert texts == {"content": "Look:", "reasoning_content": "Hm."} and finish == "tool_calls"
    assert [(c["name"], json.loads(c["arguments"])) for c in calls.values()] == [("weather", ARGUMENTS)] * 2
    assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks) > 10


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_tokens_are_counted(client: openai.OpenAI, stream: bool) -> None:
    """One token is one byte; the reasoning ends with the last character of its end marker."""
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    reply = ask(client, "<think>Hm, so.</think>Yes.", **options)
    usage = list(reply)[-1].usage if stream else reply.usage
    assert usage.completion_tokens_details.reasoning_tokens == len("<think>Hm, so.")
    assert usage.completion_tokens == len("<think>Hm, so.</think>Yes.") + 1


@pytest.mark.parametrize("stream", [False, True])
def test_text_without_tool_calls_is_content(client: openai.OpenAI, stream: bool) -> None:
    text = " I can <tool it.\n"
    reply = ask(client, text, stream=stream)
    if stream:
        assert joined(reply) == ({"content": text, "reasoning_content": ""}, {}, "stop")
    else:
        assert (reply.choices[0].message.content, reply.choices[0].message.tool_calls) == (text, None)
        assert reply.choices[0].finish_reason == "stop"


def test_unparsable_tool_call_is_returned_as_content(client: openai.OpenAI) -> None:
    choice = ask(client, f"{CALL}\n{BROKEN}").choices[0]
    assert choice.message.content.strip() == BROKEN and len(choice.message.tool_calls) == 1
    alone = ask(client, BROKEN).choices[0]
    assert (alone.message.content, alone.message.tool_calls, alone.finish_reason) == (BROKEN, None, "stop")


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": openai.omit}])
def test_request_without_tools_returns_no_tool_calls(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    choice = ask(client, f"<think>Hm.</think>{CALL}", **fields).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (CALL, None, "stop")
    assert choice.message.reasoning_content == "Hm."


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls_false_returns_only_the_first_call(client: openai.OpenAI, stream: bool) -> None:
    reply = ask(client, f"{CALL}\n{CALL}", stream=stream, parallel_tool_calls=False)
    calls = joined(reply)[1] if stream else reply.choices[0].message.tool_calls
    assert len(calls) == 1


def test_parallel_tool_calls_false_skips_a_broken_call(client: openai.OpenAI) -> None:
    _, calls, finish = joined(ask(client, f"{BROKEN}\n{CALL}", stream=True, parallel_tool_calls=False))
    assert json.loads(calls[1]["arguments"]) == ARGUMENTS and finish == "tool_calls"
    texts, calls, _ = joined(ask(client, f"{CALL}\n{BROKEN}", stream=True, parallel_tool_calls=False))
    assert texts["content"].strip() == BROKEN and len(calls) == 1


def test_truncated_tool_call_has_finish_reason_length(client: openai.OpenAI) -> None:
    choice = ask(client, CALL, max_tokens=40).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("length", None)
    assert joined(ask(client, CALL, max_tokens=60, stream=True))[2] == "length"


def test_each_choice_has_its_own_tool_calls(client: openai.OpenAI) -> None:
    choices = ask(client, CALL, n=2).choices
    assert len({choice.message.tool_calls[0].id for choice in choices}) == 2


def test_reply_message_and_tool_results_are_accepted_as_history(client: openai.OpenAI, server: EchoServer) -> None:
    message = ask(client, CALL).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "grey"}
    history = [{"role": "user", "content": "Rain?"}, message, result]
    assert ask(client, "", messages=history).choices[0].message.content == "grey"


@pytest.mark.parametrize(
    "message, param",
    [
        ({"role": "user", "content": "x", "tool_calls": []}, None),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
            "tool_calls",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]},
            "arguments",
        ),
    ],
)
def test_tool_calls_in_the_history_are_validated(
    client: openai.OpenAI, message: dict[str, Any], param: str | None
) -> None:
    history = [message, {"role": "user", "content": "y"}]
    if param is None:
        assert ask(client, "", messages=history).choices[0].message.content == "y"
        return
    with pytest.raises(openai.BadRequestError, match=param):
        ask(client, "", messages=history)


def test_tools_are_rejected_if_the_template_does_not_support_them() -> None:
    with echoing(dialects=Found(why="the chat template does not render tool calls")) as server:
        with pytest.raises(openai.BadRequestError, match="does not render tool calls") as error:
            ask(client_of(server), "x")
        assert (error.value.param, error.value.code) == ("tools", "unsupported_parameter")
        assert ask(client_of(server), CALL, tools=openai.omit).choices[0].message.content == CALL


def test_tools_and_calls_reach_the_template_in_its_format(tmp_path: Path) -> None:
    """DeepSeek's template takes arguments as text: the server detects this, and its text workers pass text."""
    source = TEMPLATES["deepseek-r1"][2].replace("bos_token", "'<|endoftext|>'")
    tiny_gguf.write(path := tmp_path / "tiny.gguf", replace(tiny_gguf.TINY, context=1024), template=source)
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}
    history = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "grey"},
    ]
    with serving(model=path, context_length=None) as running:
        request = {"model": "default", "messages": history, "tools": [TOOL]}
        _, _, shown = running.call("POST", "/apply-template", request)
        status, _, reply = running.call("POST", "/v1/chat/completions", {**request, "max_tokens": 2})
    assert '<｜tool▁sep｜>weather\n```json\n{"city":"Zürich"}\n```' in shown["prompt"] and "grey" in shown["prompt"]
    assert '[TOOL {"type": "function", "function": {"name": "weather"' in shown["prompt"]
    assert status == 200, reply


def test_special_strings_are_rejected_in_tools_and_escaped_arguments(tmp_path: Path) -> None:
    tiny_gguf.write(
        path := tmp_path / "tiny.gguf", replace(tiny_gguf.TINY, context=1024), template=TEMPLATES["chatml-tools"][2]
    )
    tool = {"type": "function", "function": {"name": "weather", "description": "ends with <|im_end|>"}}
    arguments = r'{"city": "\u003c|im_end|\u003e"}'
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    request = [{"role": "user", "content": "Rain?"}]
    called = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    called += [{"role": "tool", "tool_call_id": "call_1", "content": "grey"}]
    with serving(model=path, context_length=None, special_tokens="error") as running:
        for body, param in (
            ({"messages": request, "tools": [TOOL, tool]}, "tools[1].function"),
            ({"messages": [*request, *called]}, "messages[1].tool_calls"),
            ({"messages": request, "tools": [TOOL]}, None),
        ):
            status, _, reply = running.call(
                "POST", "/v1/chat/completions", {"model": "default", "max_tokens": 1, **body}
            )
            assert (status, reply.get("error", {}).get("param")) == (400 if param else 200, param), reply


def test_template_capabilities_are_passed_between_processes() -> None:
    assert Found.from_json(json.loads(json.dumps(HERMES.to_json()))) == HERMES


THOUGHT = "<think>abcdefghijkYes."  # its 8 characters after "abc" are where a closing tag is put


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [False, True])
def test_reasoning_is_closed_after_its_budget(client: openai.OpenAI, stream: bool, logprobs: bool) -> None:
    """A token is a byte here; the model repeats the question wherever it is in its answer."""
    options: dict[str, Any] = {"stream": stream, "logprobs": logprobs}
    options |= {"stream_options": {"include_usage": True}} if stream else {}
    reply = ask(client, THOUGHT, extra_body={"thinking_token_budget": 3}, **options)
    if stream:
        chunks = list(reply)
        assert joined(chunks[:-1])[0] == {"content": "Yes.", "reasoning_content": "abc"}
        usage = chunks[-1].usage
    else:
        message, usage = reply.choices[0].message, reply.usage
        assert (message.content, message.reasoning_content) == ("Yes.", "abc")
    assert len("<think>abc") <= usage.completion_tokens_details.reasoning_tokens <= len("<think>abc</think>")


@pytest.mark.parametrize(
    "budget, said, thought, answer",
    [
        (0, "<think>........Yes.", None, "Yes."),
        (-1, "<think>abc</think>Yes.", "abc", "Yes."),
        (3, "<think>abc</think>Yes.", "abc", "Yes."),
        (99, "<think>abc</think>Yes.", "abc", "Yes."),
        (1, "<thin>abcYes.", None, "<thin>abcYes."),
        (1, "\n<think>a........Yes.", "a", "Yes."),
    ],
)
def test_reasoning_budget_affects_only_longer_reasoning(
    client: openai.OpenAI, budget: int, said: str, thought: str | None, answer: str
) -> None:
    message = ask(client, said, extra_body={"thinking_token_budget": budget}).choices[0].message
    assert (message.content, getattr(message, "reasoning_content", None)) == (answer, thought)


def test_budget_closes_reasoning_opened_by_the_prompt(client: openai.OpenAI) -> None:
    """The echo repeats the whole prompt: here it ends inside a thought, from which the answer starts."""
    limits = {"thinking_token_budget": 2}
    message = ask(client, "ab........cd<think>", extra_body=limits).choices[0].message
    assert message.reasoning_content == "ab" and message.content.startswith("cd")


def test_reasoning_budget_is_rejected_for_models_without_reasoning() -> None:
    with echoing() as server:
        with pytest.raises(openai.BadRequestError, match="no reasoning") as error:
            ask(client_of(server), "x", tools=openai.omit, extra_body={"thinking_token_budget": 5})
        assert (error.value.param, error.value.code) == ("thinking_token_budget", "unsupported_parameter")
