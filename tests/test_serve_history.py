"""A conversation continues with the server's replies, in every form in which clients send them back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import openai
import pytest
from openai.types import chat, completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from serve.http.errors import ApiError
from serve.http.requests import parse
from serve.http.schema import ChatRequest, CompletionRequest
from tests.support.server import ServerProcess, serving

QUESTION = {"role": "user", "content": "Which pier serves boat 4?"}
NEXT = {"role": "user", "content": "And boat 5?"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


ASK: dict[str, Any] = {"model": "default", "messages": [QUESTION], "max_tokens": 8, "temperature": 0, "stop": " "}


def whole(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(**ASK)


def merged(client: openai.OpenAI) -> dict[str, Any]:
    """Merge the deltas of a stream, like clients that don't interpret the fields."""
    message: dict[str, Any] = {}
    stream = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        for name, value in chunk.choices[0].delta.model_dump().items() if chunk.choices else ():
            if value is not None:
                message[name] = message.get(name, "") + value if isinstance(value, str) else value
    return message


def helper(client: openai.OpenAI) -> Any:
    with client.chat.completions.stream(**ASK) as stream:
        return stream.get_final_completion().choices[0].message


FORMS: dict[str, Callable[[openai.OpenAI], Any]] = {
    "the SDK's object": lambda client: whole(client).choices[0].message,
    "model_dump": lambda client: whole(client).choices[0].message.model_dump(),
    "model_dump without nulls": lambda client: whole(client).choices[0].message.model_dump(exclude_none=True),
    "model_dump_json": lambda client: json.loads(whole(client).choices[0].message.model_dump_json()),
    "the stream helper's object": helper,
    "the stream helper's object dumped": lambda client: helper(client).model_dump(),
    "deltas added up": merged,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_sdk_reply_object_is_valid_history(client: openai.OpenAI, form: Callable[[openai.OpenAI], Any]) -> None:
    messages = [QUESTION, form(client), NEXT]
    second = client.chat.completions.create(model="default", messages=messages, max_tokens=6, temperature=0)
    plain = [QUESTION, {"role": "assistant", "content": whole(client).choices[0].message.content}, NEXT]
    expected = client.chat.completions.create(model="default", messages=plain, max_tokens=6, temperature=0)  # type: ignore[arg-type]
    assert second.choices[0].message.content == expected.choices[0].message.content
    assert second.usage is not None and expected.usage is not None
    assert second.usage.prompt_tokens == expected.usage.prompt_tokens


def test_raw_reply_message_is_valid_history(server: ServerProcess) -> None:
    message = server.chat("Which pier?", max_tokens=4)[2]["choices"][0]["message"]
    assert message["annotations"] == []
    for changed in (message, {**message, "tool_calls": None, "function_call": None, "audio": None, "parsed": None}):
        body = {"model": "default", "messages": [QUESTION, changed, NEXT], "max_tokens": 1}
        assert server.call("POST", "/v1/chat/completions", body)[0] == 200


MESSAGES = (
    chat.ChatCompletionSystemMessageParam,
    chat.ChatCompletionDeveloperMessageParam,
    chat.ChatCompletionUserMessageParam,
    chat.ChatCompletionAssistantMessageParam,
    chat.ChatCompletionToolMessageParam,
)


def parsed(body: dict[str, Any], model: Any = ChatRequest) -> Any:
    return parse(model, json.dumps(body).encode())


@pytest.mark.parametrize("kind", MESSAGES)
def test_sdk_message_fields_may_be_null(kind: type) -> None:
    role = kind.__name__.removeprefix("ChatCompletion").removesuffix("MessageParam").lower()
    fields = set(get_type_hints(kind)) | set(chat.ChatCompletionMessage.model_fields)
    message = {**dict.fromkeys(fields), "role": role, "content": "x"}
    assert parsed({"model": "m", "messages": [message]}).messages[0].text() == "x"


@pytest.mark.parametrize(
    ("model", "params", "base"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsBase, {"model": "m", "messages": [QUESTION]}),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase, {"model": "m", "prompt": "x"}),
    ],
)
def test_all_sdk_message_fields_are_known(model: Any, params: type, base: dict[str, Any]) -> None:
    """Null means absent; any other value is accepted or refused by its value, never as an unknown field."""
    fields = set(get_type_hints(params)) - set(base)
    parsed({**base, **dict.fromkeys(fields)}, model)
    for field in fields:
        try:
            parsed({**base, field: {"x": 1}}, model)
        except ApiError as error:
            assert error.code != "unknown_parameter" or error.param == f"{field}.x", field


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "messages[0].function_call"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[0].role"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0].type"),
    ],
)
def test_known_but_unsupported_field_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed({"model": "m", "messages": [message]})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)


def test_refusal_and_refusal_parts_are_assistant_text() -> None:
    parts = [{"type": "text", "text": "No"}, {"type": "refusal", "refusal": ", sorry"}]
    for message in ({"content": None, "refusal": "No, sorry"}, {"content": parts}):
        request = parsed({"model": "m", "messages": [{"role": "assistant", **message}]})
        assert request.messages[0].for_template() == {"role": "assistant", "content": "No, sorry"}
    with pytest.raises(ApiError) as caught:
        parsed({"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]})
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "messages[0].content[0].text")


def test_reasoning_content_is_passed_to_the_template() -> None:
    for name in ("reasoning_content", "reasoning"):
        request = parsed({"model": "m", "messages": [{"role": "assistant", "content": "5", name: "2 + 3"}]})
        assert request.messages[0].for_template()["reasoning_content"] == "2 + 3"
