"""Rows with tools: calls and their end tokens are trained, and the server parses them back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from burnish.chat import ChatTemplate, load_template
from burnish.config import ConfigError
from burnish.data.formats import Example, Message
from burnish.dialects.events import Call
from tests.support.tool_calls import CALLS
from train.data.mask import Codec, MaskError, Row, build, prove
from train.data.tools import check_tools, fit
from train.settings import ChatSection

Prepared = tuple[ChatTemplate, Codec]
END = "<|im_end|>"
CALL = Call("weather", '{"city": "Zürich"}')


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": {}}}


def conversation(*calls: Call, text: str = "", answer: str = "Grey.") -> Example:
    ids = tuple(f"call{n:05}" for n in range(len(calls)))
    results = [Message("tool", "SKY GREY", ids=(i,), name=call.name) for i, call in zip(ids, calls, strict=True)]
    turns = [Message("user", "Rain?"), Message("assistant", text, calls=calls, ids=ids), *results]
    names = dict.fromkeys(call.name for call in calls)
    return Example(1, (*turns, Message("assistant", answer)), tools=tuple(tool(name) for name in names))


@pytest.fixture(scope="module")
def tools(codec: Codec, own: ChatTemplate) -> Prepared:
    return prepared(replace(own, source=load_template("chatml-tools")), codec)


def prepared(template: ChatTemplate, codec: Codec, *examples: Example) -> Prepared:
    template, found = fit(template, None)
    results = sum(any(m.role == "tool" for m in example.messages or ()) for example in examples)
    check_tools(found, sum(bool(example.tools) for example in examples), results)
    return template, replace(codec, dialects=found)


def rows(about: Prepared, *examples: Example) -> list[Row]:
    found = build(examples, *about)
    prove(found, *about)
    return found


def learned(row: Row, codec: Codec) -> list[str]:
    return [codec.decode(row.input_ids[start:end]) for start, end in row.spans]


def test_only_calls_and_their_end_token_are_trained(tools: Prepared, codec: Codec) -> None:
    (row,) = rows(tools, conversation(CALL, text="I look."))
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    assert learned(row, codec) == [f"I look.\n{written}{END}", f"Grey.{END}"]
    whole = codec.decode(row.input_ids)
    assert "Does weather." in whole and "SKY GREY" in whole


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.generate],
)
@given(calls=CALLS)
def test_random_calls_are_trained_and_proven(tools: Prepared, codec: Codec, calls: list[Call]) -> None:
    arguments = "".join(json.dumps(call.value(), ensure_ascii=False) for call in calls)
    assume(codec.decode(codec.encode(f" {arguments}")) == f" {arguments}")  # it has no token for some bytes
    (row,) = rows(tools, conversation(*calls))
    assert [text.count(END) >= 1 and text.endswith(END) for text in learned(row, codec)] == [True, True]


def test_template_that_changes_a_call_is_rejected(codec: Codec, own: ChatTemplate) -> None:
    source = load_template("chatml-tools").replace("arguments | tojson", "(arguments | tojson | replace('42', '43'))")
    with pytest.raises(
        MaskError, match="assistant turn 1: the server would parse it differently from the row: call 1 is"
    ):
        rows(prepared(replace(own, source=source), codec), conversation(Call("count", '{"to": 42}')))


def test_answer_that_would_be_parsed_as_a_call_is_rejected(tools: Prepared) -> None:
    answer = 'Write <tool_call>{"name": "weather", "arguments": {}}</tool_call>.'
    with pytest.raises(
        MaskError, match="assistant turn 2: the server would parse it differently from the row: 1 of 0 calls"
    ):
        rows(tools, conversation(CALL, answer=answer))


def test_template_that_drops_calls_is_rejected(codec: Codec, own: ChatTemplate) -> None:
    source = load_template("chatml-tools").replace("message['tool_calls'] or []", "(message['tool_calls'] or [])[:1]")
    with pytest.raises(MaskError, match="does not write all of them"):
        rows(prepared(replace(own, source=source), codec), conversation(CALL, CALL))


def test_template_without_tools_is_rejected_before_rows_are_rendered(codec: Codec, own: ChatTemplate) -> None:
    with pytest.raises(ConfigError, match="1 row has tools, and the chat template .* chatml-tools"):
        prepared(replace(own, source=load_template("chatml")), codec, conversation(CALL))


def test_template_without_tool_results_is_rejected_for_rows_with_results(codec: Codec, own: ChatTemplate) -> None:
    source = load_template("chatml-tools").replace(
        "message['content'] + '\\n</tool_response>'", "'\\n</tool_response>'"
    )
    template = replace(own, source=source)
    with pytest.raises(
        ConfigError, match="1 row has results of tools, and the chat template does not render tool results"
    ):
        prepared(template, codec, conversation(CALL))
    alone = conversation(CALL)
    assert prepared(template, codec, replace(alone, messages=(alone.messages or ())[:2]))


def test_dialect_that_does_not_match_the_template_is_rejected(own: ChatTemplate) -> None:
    template = replace(own, source=load_template("chatml-tools"))
    with pytest.raises(ConfigError, match="chat.tool_dialect mistral does not read the template's calls"):
        fit(template, "mistral")
    assert fit(template, "hermes")[1].dialect


def test_unknown_dialect_suggests_the_nearest_match() -> None:
    with pytest.raises(ValueError, match="did you mean 'hermes'"):
        ChatSection(tool_dialect="hermess")


def test_arguments_keep_special_strings_as_text(tools: Prepared, codec: Codec) -> None:
    call = Call("say", json.dumps({"words": f"a{END}b</tool_call>"}))
    (row,) = rows(tools, conversation(call))
    start, end = row.spans[0]
    assert [i in codec.terminators for i in row.input_ids[start:end]].count(True) == 1
