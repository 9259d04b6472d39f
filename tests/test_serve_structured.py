"""Constrained answers: every finished one is valid; unsupported keywords are rejected with their place."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from hypothesis import given, settings

from tests.support.schemas import HOSTILE, PERSON, REFUSED, WRITTEN, Schema, closed, schemas
from tests.support.server import ServerProcess, serving
from tools import tiny_gguf

QUESTION = "Invent a person and describe them as JSON."
LATEST_S = 20  # for what must take a second: test machines are slow and busy


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model with random weights, which generates any allowed text."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny_gguf.write(path, template="{% for m in messages %}{{ m.content }}{% endfor %}")
    with serving(model=path, context_length=2048) as running:
        yield running


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def ask(server: ServerProcess, schema: Schema, **fields: Any) -> list[dict[str, Any]]:
    status, _, reply = server.chat(QUESTION, response_format=formatted(schema), **fields)
    assert status == 200, reply
    return list(reply["choices"])


def check(choice: dict[str, Any], schema: Schema) -> bool:
    """Check a choice that is complete; return whether it is."""
    if choice["finish_reason"] == "length":
        return False
    jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    return choice["finish_reason"] == "stop"


@pytest.mark.parametrize("name", WRITTEN)
def test_every_finished_answer_matches_its_schema(server: ServerProcess, name: str) -> None:
    choices = ask(server, WRITTEN[name], n=2, temperature=1, seed=3, max_tokens=120)
    finished = [check(choice, WRITTEN[name]) for choice in choices]
    assert any(finished) or name == "recursive"


@settings(max_examples=25, deadline=None)
@given(schema=schemas())
def test_random_model_gives_valid_answers(tiny: ServerProcess, schema: Schema) -> None:
    for choice in ask(tiny, schema, n=2, temperature=1, seed=1, max_tokens=1000):
        assert check(choice, schema)


def test_truncated_answer_has_finish_reason_length(server: ServerProcess) -> None:
    (choice,) = ask(server, PERSON, max_tokens=6)
    assert choice["finish_reason"] == "length" and PERSON["required"][0] in choice["message"]["content"]


def test_streamed_answer_equals_the_full_answer(server: ServerProcess) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="none")
    messages: Any = [{"role": "user", "content": QUESTION}]
    request: Any = {"model": "default", "messages": messages, "response_format": formatted(PERSON), "temperature": 0}
    whole = client.chat.completions.create(**request).choices[0].message.content
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**request, stream=True)]
    assert "".join(pieces) == whole


def test_seed_repeats_with_penalties_and_choices(server: ServerProcess) -> None:
    sampled = {"temperature": 1, "seed": 11, "n": 2, "presence_penalty": 1.5, "repeat_penalty": 1.1, "top_p": 0.9}
    one, other = (ask(server, PERSON, **sampled) for _ in range(2))
    assert [c["message"]["content"] for c in one] == [c["message"]["content"] for c in other]
    assert all(check(choice, PERSON) for choice in one)


def test_logprobs_cover_every_constrained_token(server: ServerProcess) -> None:
    (choice,) = ask(server, PERSON, logprobs=True, top_logprobs=1)
    written = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
    assert written.decode() == choice["message"]["content"] and check(choice, PERSON)
    (again,) = ask(server, PERSON)
    assert again["message"]["content"] == choice["message"]["content"]


def test_stop_string_ends_a_constrained_answer(server: ServerProcess) -> None:
    (choice,) = ask(server, PERSON, stop=['", "age'])
    assert choice["finish_reason"] == "stop" and choice["message"]["content"].startswith('{"name": "')
    assert "age" not in choice["message"]["content"]


def test_concurrent_answers_equal_sequential_answers() -> None:
    questions = [f"{QUESTION} Number {i}, with a long and detailed name." for i in range(5)]
    # together they need more cells than there are: some are preempted and computed again
    with serving(context_length=160, cells=320, layout="unified", max_sequences=5) as server:

        def answer(question: str) -> str:
            reply = server.chat(question, response_format=formatted(PERSON))[2]
            assert check(reply["choices"][0], PERSON)
            return str(reply["choices"][0]["message"]["content"])

        alone = [answer(question) for question in questions]
        with ThreadPoolExecutor(5) as clients:
            together = list(clients.map(answer, questions))
    # batches of different sizes round differently, which may change one token
    assert sum(one == other for one, other in zip(alone, together, strict=True)) >= 4


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": {"type": "json_object"}}, r"\{.*\}"),
        ({"guided_regex": r"\d{3}-[a-c]+!"}, r"\d{3}-[a-c]+!"),
        ({"guided_choice": ["yes", "no", 'may/be "so"']}, r'yes|no|may/be "so"'),
        ({"guided_grammar": 'root ::= "ab" [0-9] ("," [0-9])? "\\n"'}, r"ab\d(,\d)?\n"),
        ({"guided_grammar": 'start: "x" NUMBER\nNUMBER: /[0-9]{1,3}/'}, r"x\d{1,3}"),
        ({"guided_json": json.dumps(PERSON)}, r'\{"name": ".*"tags": \[.*\]\}'),
        ({"structured_outputs": {"regex": "[ab]{4}"}}, "[ab]{4}"),
        ({"structured_outputs": {"json": {"const": None}}}, "null"),
        ({"structured_outputs": {"choice": ["only"]}, "response_format": {"type": "text"}}, "only"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_regex_choice_and_grammar_constraints_are_followed(
    server: ServerProcess, fields: dict[str, Any], pattern: str
) -> None:
    status, _, reply = server.chat(QUESTION, max_tokens=100, **fields)
    assert status == 200, reply
    text = reply["choices"][0]["message"]["content"]
    assert re.fullmatch(pattern, text, re.DOTALL) or reply["choices"][0]["finish_reason"] == "length", text


def test_raw_completions_can_be_constrained(server: ServerProcess) -> None:
    body = {"model": "default", "prompt": ["One:", "Two:"], "guided_json": PERSON, "max_tokens": 100, "temperature": 0}
    status, _, reply = server.call("POST", "/v1/completions", body)
    assert status == 200 and [choice["finish_reason"] for choice in reply["choices"]] == ["stop", "stop"]
    for choice in reply["choices"]:
        jsonschema.validate(json.loads(choice["text"]), PERSON)


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_keyword_is_rejected_with_its_place(server: ServerProcess, name: str) -> None:
    schema, place = REFUSED[name]
    status, _, reply = server.chat(QUESTION, response_format=formatted(schema))
    assert status == 400, reply
    error = reply["error"]
    assert (error["param"], error["code"]) == ("response_format.json_schema.schema", "invalid_json_schema")
    assert f"at {place or 'the root'}: " in error["message"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schema_is_rejected_quickly(server: ServerProcess, name: str) -> None:
    began = time.monotonic()
    status, _, reply = server.chat(QUESTION, response_format=formatted(HOSTILE[name]))
    assert (status, reply["error"]["type"]) == (400, "invalid_request_error"), reply
    assert time.monotonic() - began < LATEST_S
    assert server.chat("Hi", max_tokens=1)[0] == 200


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"guided_regex": "("}, "guided_regex", "invalid_value"),
        ({"guided_regex": "[^\\s\\S]"}, "guided_regex", "invalid_value"),
        ({"guided_regex": "((.{1,50}){1,50}){1,50}"}, "guided_regex", "invalid_value"),
        ({"guided_regex": "((((a{1,100}){1,100}){1,100}){1,100})"}, "guided_regex", "invalid_value"),
        ({"guided_grammar": "root ::= nothing"}, "guided_grammar", "invalid_value"),
        ({"guided_grammar": "start: \"a\n"}, "guided_grammar", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "empty_array"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "guided_choice", "invalid_value"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "invalid_value"),
        (
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag",
            "unsupported_parameter",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
         "response_format.json_schema.name", "invalid_value"),
        (
            {"response_format": {"type": "json_object"}, "continue_final_message": True},
            "response_format",
            "invalid_value",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_invalid_constraint_is_rejected(server: ServerProcess, fields: dict[str, Any], param: str, code: str) -> None:
    status, _, reply = server.chat(QUESTION, **fields)
    assert (status, reply["error"]["param"], reply["error"]["code"]) == (400, param, code), reply


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"guided_regex": "(" * 5000}, "regex parse error: unclosed group"),
        ({"guided_regex": "a(?=b)" + "x" * 2000}, "regex parse error: look-around, "),
        ({"guided_json": {"type": "string", "pattern": "("}}, "at /pattern: regex parse error: unclosed group"),
        ({"guided_grammar": "start: A\nA: /[/"}, "at 2(4): regex parse error: unclosed character class"),
        ({"guided_grammar": "root ::= root"}, "the grammar cannot match any text"),
        ({"guided_json": {"$ref": "#"}}, "the grammar cannot match any text"),
    ],
)
def test_refusal_gives_the_cause_in_a_short_message(server: ServerProcess, fields: dict[str, Any], why: str) -> None:
    status, _, reply = server.chat(QUESTION, **fields)
    assert status == 400 and why in reply["error"]["message"] and len(reply["error"]["message"]) < 200, reply


def test_constraint_that_becomes_too_complex_is_the_requests_fault(server: ServerProcess) -> None:
    # the complex part begins after what a check writes
    status, _, reply = server.chat(QUESTION, guided_regex="[0-9]{70}((.{1,50}){1,50}){1,50}")
    assert (status, reply["error"]["type"], reply["error"]["code"]) == (400, "invalid_request_error", "invalid_value")
    assert "too complex" in reply["error"]["message"]
    streamed = server.chat(QUESTION, guided_regex="[0-9]{70}((.{1,50}){1,50}){1,50}", stream=True)[2]
    *_, last, done = [event for event in streamed.decode().split("\n\n") if event.startswith("data: ")]
    assert json.loads(last[6:]) == reply and done == "data: [DONE]"


def test_response_that_becomes_too_complex_is_the_requests_fault(server: ServerProcess) -> None:
    schema = closed({"a": {"type": "string", "pattern": "^[0-9]{70}((.{1,50}){1,50}){1,50}$"}})
    body = {"model": "default", "input": QUESTION, "temperature": 0}
    body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    status, _, reply = server.call("POST", "/v1/responses", body)
    assert (status, reply["error"]["type"]) == (400, "invalid_request_error"), reply
    streamed = server.call("POST", "/v1/responses", body | {"stream": True})[2].decode()
    assert '"type":"response.failed"' in streamed and '"code":"invalid_prompt"' in streamed


def test_openai_client_parses_structured_answers(server: ServerProcess) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    client = openai.OpenAI(base_url=server.url, api_key="none")
    messages: Any = [{"role": "user", "content": QUESTION}]
    reply = client.chat.completions.parse(
        model="default", messages=messages, response_format=Person, temperature=0, max_tokens=200
    )
    assert isinstance(reply.choices[0].message.parsed, Person)
