"""The Responses API through OpenAI's client: items in and out, typed events, tools, formats, strict errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from burnish.dialects.find import Found
from burnish.dialects.formats import DIALECTS
from burnish.dialects.thoughts import FORMATS
from serve.http.body.validation import validate
from serve.http.responses.items import messages
from serve.http.responses.schema import ResponsesRequest
from tests.support.echo_server import EchoServer, echoing
from tests.support.schemas import HOSTILE, PERSON, REFUSED
from tests.support.server import ServerProcess, serving

HERMES = Found(DIALECTS["hermes"], FORMATS["think"], defines=True, parallel=True, results=True)
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
ANSWER = f"<think>Hm.</think>Look:\n{CALL}\n{CALL}"


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    with echoing(dialects=HERMES) as running:
        yield running


@pytest.fixture(scope="module")
def client(echo: EchoServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{echo.url}v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def real(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def ask(client: openai.OpenAI, answer: Any, **fields: Any) -> Any:
    """Ask the server, which repeats the last message."""
    return client.responses.create(**{"model": "default", "input": answer, "tools": [TOOL], **fields})


def shown(output: Any) -> list[tuple[str, str]]:
    """Return the items of a response, without ids."""
    texts = {
        "reasoning": lambda item: item.content[0].text,
        "message": lambda item: item.content[0].text,
        "function_call": lambda item: f"{item.name} {item.arguments}",
    }
    return [(item.type, texts[item.type](item)) for item in output]


ITEMS = [
    ("reasoning", "Hm."),
    ("message", "Look:"),
    ("function_call", 'weather {"city": "Bern"}'),
    ("function_call", 'weather {"city": "Bern"}'),
]


def test_an_answer_is_items_of_reasoning_text_and_calls(client: openai.OpenAI) -> None:
    response = ask(client, ANSWER, metadata={"a": "b"}, instructions="Echo.")
    assert (response.status, response.object, shown(response.output)) == ("completed", "response", ITEMS)
    assert response.output_text == "Look:" and response.metadata == {"a": "b"} and response.instructions == "Echo."
    assert response.usage.output_tokens_details.reasoning_tokens > 0 and response.store is False
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    ids = [item.id for item in response.output] + [item.call_id for item in response.output[2:]]
    assert len(set(ids)) == 6


def test_a_stream_has_typed_events_in_order(client: openai.OpenAI) -> None:
    events = list(ask(client, ANSWER, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert shown(events[-1].response.output) == ITEMS
    for index, (kind, text) in enumerate(ITEMS):
        own = [e for e in events if getattr(e, "output_index", None) == index]
        assert own[0].type == "response.output_item.added" and own[-1].type == "response.output_item.done"
        assert shown([own[-1].item]) == [(kind, text)] and len({e.item_id for e in own if hasattr(e, "item_id")}) == 1
        deltas = "".join(e.delta for e in own if e.type.endswith(".delta"))
        done = next(e for e in own if e.type.endswith((".text.done", "_text.done", "arguments.done")))
        whole = done.arguments if kind == "function_call" else done.text
        assert deltas == whole and text.endswith(whole)


def test_the_clients_own_stream_helper_reads_the_events(real: openai.OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "person", "schema": PERSON}}  # which ends by itself
    request: Any = {"model": "default", "input": "Invent a person.", "text": form, "temperature": 0}
    with real.responses.stream(**request) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    whole = real.responses.create(**request)
    assert deltas == final.output_text == whole.output_text
    assert final.status == whole.status == "completed"


def test_a_cut_response_is_incomplete(real: openai.OpenAI) -> None:
    request: Any = {"model": "default", "input": "Write a long story.", "max_output_tokens": 3}
    response = real.responses.create(**request)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens" and response.usage is not None
    assert response.usage.output_tokens == 3
    last = list(real.responses.create(**request, stream=True))[-1]
    assert last.type == "response.incomplete"


def test_output_goes_back_in_as_input(client: openai.OpenAI) -> None:
    response = ask(client, ANSWER)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "grey"}
        for item in response.output
        if item.type == "function_call"
    ]
    history = [{"role": "user", "content": "Rain?"}, *response.output, *results]
    assert ask(client, history).output_text == "grey"
    plain = [{"role": "user", "content": "Rain?"}, *(item.model_dump() for item in response.output), *results]
    assert ask(client, plain).output_text == "grey"


def test_the_items_of_one_turn_are_one_message() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user",
         "content": [{"type": "input_text", "text": "Rain"}, {"type": "input_text", "text": "?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Look:", "annotations": [], "logprobs": []}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}", "id": "fc_2", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": "Done."},
        {"role": "assistant", "content": "Really."},
    ]  # fmt: skip
    request = validate(ResponsesRequest, {"model": "default", "input": items})
    found = messages(request.input, "Rules.")
    assert [message["role"] for message in found] == [
        "system", "developer", "user", "assistant", "tool", "tool", "assistant", "assistant",
    ]  # fmt: skip
    turn = found[3]
    assert (turn["reasoning_content"], turn["content"], len(turn["tool_calls"])) == ("Hm.", "Look:", 2)
    assert (found[2]["content"], found[5]["content"], found[5]["tool_call_id"]) == ("Rain?", "2", "c2")
    calls = request.for_chat().messages[2].tool_calls
    assert calls is not None and calls[1].function.name == "g"


def test_text_follows_a_schema(real: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    response = real.responses.create(
        model="default",
        input="Describe a person as JSON.",
        text={"format": schema},
        temperature=0,
        max_output_tokens=200,
    )
    jsonschema.validate(json.loads(response.output_text), PERSON)

    class City(BaseModel):
        name: str
        inhabitants: int

    parsed = real.responses.parse(
        model="default", input="Describe Bern as JSON.", text_format=City, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, City)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"store": True}, "store", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "c"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "unsupported_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type",
         "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{**TOOL, "parameters": REFUSED["not"][0], "strict": True}]}, "tools[0].parameters", None),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "name": "sing"}}, "tool_choice", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"temperature": 3.0}, "temperature", "decimal_above_max_value"),
        ({"reasoning": {"effort": "enormous"}}, "reasoning.effort", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema",
         "missing_required_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"model": "other"}, None, "model_not_found"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_cant_be_honoured_is_refused_by_its_own_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str | None, code: str | None
) -> None:
    body = {"model": "default", "input": "Hi", "tools": [TOOL], **fields}
    with pytest.raises(openai.APIStatusError) as error:
        client.post("/responses", body=body, cast_to=object)
    assert error.value.status_code in (400, 404)
    if code is None:  # this server's model can't be constrained at all
        assert error.value.param is not None and error.value.param.startswith("tools[0].")
    else:
        assert (error.value.param, error.value.code) == (param, code)


def test_a_schema_names_its_place(real: openai.OpenAI) -> None:
    schema, place = REFUSED["uniqueItems"]
    for refused, message in ((schema, f"at {place}: "), (HOSTILE["a loop"], "at the root: ")):
        text: Any = {"format": {"type": "json_schema", "name": "x", "schema": refused}}
        with pytest.raises(openai.BadRequestError, match=message) as error:
            real.responses.create(model="default", input="Hi", text=text)
        assert (error.value.param, error.value.code) == ("text.format.schema", "invalid_json_schema")


def test_a_stored_response_is_refused_with_the_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="nothing is stored: send the items of earlier responses"):
        ask(client, "Hi", previous_response_id="resp_1")
