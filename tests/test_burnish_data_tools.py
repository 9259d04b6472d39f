"""Rows with tools: every format is read as the same turns, and invalid calls are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.data.faults import DataError, Undecoded
from burnish.data.files import RawRow
from burnish.data.formats import Conversion, Example, convert
from burnish.data.tools.conversation import NO_TOOLS
from burnish.data.tools.hermes import without_list

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": PROPERTIES,
        "required": ["city"],
    },
}
OPENAI = [{"type": "function", "function": WEATHER}]
ARGUMENTS = {"city": "Zürich", "days": 2}
CALL = {"name": "weather", "arguments": ARGUMENTS}
RESULT = '{"sky": "grey"}'
TURNS = ["user", "assistant", "tool", "assistant"]


def messages(call: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": RESULT, **more},
            {"role": "assistant", "content": "No."},
        ],
        "tools": OPENAI,
    }


def sharegpt(call: str, tools: Any, speaker: str = "function_call") -> dict[str, Any]:
    pairs = [("human", "Rain?"), (speaker, call), ("observation", RESULT), ("gpt", "No.")]
    return {"conversations": [{"from": f, "value": v} for f, v in pairs], "tools": tools}


HERMES: dict[str, Any] = {
    "conversations": [
        {"from": "system", "value": f"You may call functions: <tools>{json.dumps(OPENAI)}</tools>"},
        {"from": "human", "value": "Rain?"},
        {"from": "gpt", "value": f"<tool_call>\n{json.dumps(CALL, ensure_ascii=False)}\n</tool_call>"},
        {"from": "tool", "value": f"<tool_response>\n{RESULT}\n</tool_response>\n"},
        {"from": "gpt", "value": "No."},
    ],
    "tools": json.dumps(OPENAI),
}
ROWS = {
    "arguments as an object": messages({"id": "call_1", "type": "function", "function": CALL}, tool_call_id="call_1"),
    "arguments as text": messages({"id": "call_1", "function": {**CALL, "arguments": json.dumps(ARGUMENTS)}}),
    "tools as text": {**messages({"function": CALL}), "tools": json.dumps([WEATHER])},
    "LLaMA-Factory": sharegpt(json.dumps(CALL), json.dumps([WEATHER])),
    "a list of calls": sharegpt(json.dumps([CALL]), OPENAI),
    "Hermes": HERMES,
}


def read(*rows: dict[str, Any], **options: Any) -> Conversion:
    format = "messages" if "messages" in rows[0] else "sharegpt"
    return convert([RawRow(n, row, n) for n, row in enumerate(rows, start=1)], format, Path("rows.jsonl"), **options)


def faults(*rows: dict[str, Any]) -> list[str]:
    with pytest.raises(DataError) as error:
        read(*rows)
    return [fault.removeprefix("rows.jsonl: line ").partition("; data.tool_faults")[0] for fault in error.value.faults]


@pytest.mark.parametrize("name", ROWS)
def test_every_tool_format_is_read_as_the_same_turns(name: str) -> None:
    (example,) = read(ROWS[name]).examples
    assert isinstance(example, Example) and example.messages
    assert [m.role for m in example.messages] == TURNS
    call, result = example.messages[1], example.messages[2]
    assert [(c.name, c.value()) for c in call.calls] == [("weather", ARGUMENTS)]
    assert (call.content, result.content, result.name) == ("", RESULT, "weather")
    assert call.ids == result.ids and call.ids[0]
    assert list(example.tools) == OPENAI
    assert call.to_dict()["tool_calls"][0]["function"]["arguments"] == json.dumps(ARGUMENTS, ensure_ascii=False)


def test_missing_call_ids_become_nine_alphanumeric_characters() -> None:
    (example,) = read(ROWS["LLaMA-Factory"]).examples
    assert example.messages and len(example.messages[1].ids[0]) == 9 and example.messages[1].ids[0].isalnum()


def test_text_before_a_call_is_kept() -> None:
    row = messages({"function": CALL})
    row["messages"][1]["content"] = "Let me look."
    (example,) = read(row).examples
    assert example.messages and example.messages[1].content == "Let me look."


@pytest.mark.parametrize(
    "call, expected",
    [
        ({"name": "wether", "arguments": {}}, "no tool is named 'wether'; did you mean 'weather'?"),
        ({"name": "weather", "arguments": {}}, "(weather): the argument 'city' is missing"),
        (
            {"name": "weather", "arguments": {"city": 3}},
            "(weather): the argument 'city': expected string, got a number",
        ),
        (
            {"name": "weather", "arguments": {"city": "x", "unit": "K"}},
            "(weather): the argument 'unit': expected one of 'C', 'F', got 'K'",
        ),
        (
            {"name": "weather", "arguments": {"city": "x", "day": 2}},
            "(weather): the argument 'day' is unknown; did you mean 'days'?",
        ),
    ],
)
def test_invalid_call_is_reported_with_line_and_turn(call: dict[str, Any], expected: str) -> None:
    separator = " " if expected.startswith("(") else ": "
    assert faults(messages({"function": call})) == [f"1: turn 2: call 1{separator}{expected}"]


@pytest.mark.parametrize(
    "row, expected",
    [
        (
            messages({"function": {"name": "weather", "arguments": "{city"}}),
            "turn 2: call 1: 'arguments': expected a JSON object, got text",
        ),
        (messages({"function": CALL}, tool_call_id="x"), "turn 3: 'tool_call_id' is 'x', but no call before it"),
        ({**messages({"function": CALL}), "tools": None}, "turn 2: a turn calls tools, but the row defines none"),
        (
            {**messages({"function": CALL}), "tools": "weather"},
            "'tools': expected a list of definitions as JSON, got text",
        ),
        ({**messages({"function": CALL}), "tools": [{}]}, "tool 1 has no name"),
        (sharegpt("weather()", OPENAI), "turn 2: its text is not a call in JSON"),
        (sharegpt("[]", OPENAI), "turn 2: no call found"),
        (
            {**messages({"function": CALL}), "tools": "null"},
            "'tools': expected a list of definitions as JSON, got text: null",
        ),
        (
            {**messages({"function": CALL}), "tools": {}},
            "'tools': expected a list of definitions, got an empty object;",
        ),
        ({**messages({"function": CALL}), "functions": [WEATHER]}, "'functions': tool definitions are read from"),
        (
            sharegpt("Soon.", OPENAI, "gpt"),
            "turn 3: expected no tool result: every call before this turn already has one",
        ),
    ],
)
def test_malformed_calls_and_results_are_reported(row: dict[str, Any], expected: str) -> None:
    (fault, *_) = faults(row)
    assert fault.startswith(f"1: {expected}"), fault


def test_tool_faults_drop_skips_rows_with_invalid_calls() -> None:
    bad = messages({"function": {"name": "weather", "arguments": {}}})
    converted = read(ROWS["arguments as text"], bad, misfits="drop")
    assert [example.line for example in converted.examples] == [1]
    assert converted.notes == ("1 row dropped: their calls do not match the tools (data.tool_faults drop)",)


RULES = "You are Bob. You are a function calling AI model. Tools: <tools>[{}]</tools> Always answer in French."


@pytest.mark.parametrize("column", [False, True])
def test_only_the_tool_list_is_removed_from_system_text(column: bool) -> None:
    turns = HERMES["conversations"][1:]
    own = {} if column else {"from": "system", "value": RULES}
    row = {**HERMES, "conversations": [own, *turns] if own else turns} | ({"system": RULES} if column else {})
    for again in (row, {**row, "conversations": [*([own] if own else []), turns[0], turns[3]]}):  # without a call
        converted = read(again)
        assert (converted.examples[0].messages or ())[0].content == "You are Bob. Always answer in French."
        assert any("tool lists were removed from system texts (1 row)" in text for text in converted.remarks)


def test_standard_text_around_the_tool_list_is_removed() -> None:
    text = (
        "Be brief: see https://a.b/c.\n\n# Tools\n\nYou are given function signatures within <tools></tools> XML"
        ' tags:\n<tools>\n{"name": "a"}\n</tools>\n\nFor each function call, return a json object within'
        ' <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <name>}\n</tool_call>'
    )
    assert without_list(text) == "Be brief: see https://a.b/c."
    assert without_list("Use these:\n<tools>[]</tools>\n{'title': 'FunctionCall', 'a': {}}") == ""


def test_hermes_errors_use_the_turn_numbers_of_the_row() -> None:
    call, result = HERMES["conversations"][2]["value"], HERMES["conversations"][3]["value"]
    pairs = [("system", RULES), ("human", "a"), ("gpt", call * 2), ("tool", result * 2), ("gpt", "b"), ("human", "c")]
    turns = [{"from": f, "value": v} for f, v in [*pairs, ("gpt", call.replace("city", "town"))]]
    found = faults({**HERMES, "conversations": turns})
    assert found and all(fault.startswith("1: turn 7: call 1 (weather): ") for fault in found)


def test_nulls_added_by_tables_are_removed() -> None:
    padded = {**WEATHER["parameters"], "properties": {**PROPERTIES, "expression": None}, "items": None}
    tools = [{"type": "function", "function": {**WEATHER, "parameters": padded}}]
    given = {"city": "Bern", "expression": None, "days": None}
    converted = read({**messages({"function": {**CALL, "arguments": given}}), "tools": tools})
    (example,) = converted.examples
    assert list(example.tools) == OPENAI
    assert example.messages and example.messages[1].calls[0].value() == {"city": "Bern"}
    assert any("table formats fill absent keys with null" in text and "(1 row)" in text for text in converted.remarks)


@pytest.mark.parametrize(
    "schema, given, kept",
    [
        ({"a": {"type": ["string", "null"]}}, {"a": None}, {"a": None}),
        ({"a": {"type": "string", "nullable": True}}, {"a": None}, {"a": None}),
        ({"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, {"a": None}, {"a": None}),
        (
            {"a": {"type": "object", "properties": {"b": {"type": "string"}}}},
            {"a": {"b": "x", "c": None}},
            {"a": {"b": "x"}},
        ),
        (
            {"a": {"type": "array", "items": {"properties": {"b": {}}}}},
            {"a": [{"c": None}, {"b": None}]},
            {"a": [{}, {"b": None}]},
        ),
        ({"a": {"type": "object"}}, {"a": {"b": None}}, {"a": {"b": None}}),
        ({"default": {"type": "string", "default": None}}, {"default": "x"}, {"default": "x"}),
    ],
)
def test_meaningful_nulls_are_kept(schema: dict[str, Any], given: dict[str, Any], kept: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": schema}}}]
    row = {**messages({"function": {"name": "weather", "arguments": given}}), "tools": tools}
    (example,) = read(row).examples
    assert example.messages and example.messages[1].calls[0].value() == kept
    assert list(example.tools) == tools


def test_null_for_a_required_argument_is_an_error() -> None:
    (fault,) = faults(messages({"function": {**CALL, "arguments": {"city": None}}}))
    assert fault == "1: turn 2: call 1 (weather): the argument 'city': expected string, got null"


def test_dropping_all_rows_is_reported_as_a_call_error() -> None:
    bad = messages({"function": {"name": "weather", "arguments": {}}})
    with pytest.raises(DataError, match="calls of all 2 rows do not fit .* leaves none; first: line 1: turn 2: call 1"):
        read(bad, bad, misfits="drop")


def test_invalid_call_is_allowed_in_untrained_turns() -> None:
    row = messages({"function": {"name": "wether", "arguments": {}}})
    row["messages"][1]["weight"] = 0
    (example,) = read(row).examples
    assert example.messages and not example.messages[1].train
    assert faults({**row, "tools": None}) == [f"1: turn 2: {NO_TOOLS}"]


@pytest.mark.parametrize(
    "content, expected",
    [
        (None, ""),
        ({"sky": "grau, kühl"}, '{"sky": "grau, kühl"}'),
        ([{"type": "rain", "mm": 3}], '[{"type": "rain", "mm": 3}]'),
        ([], "[]"),
        ([{"type": "text", "text": "gr"}, {"type": "text", "text": "ey"}], "grey"),
    ],
)
def test_tool_results_may_be_json_values(content: Any, expected: str) -> None:
    (example,) = read(messages({"function": CALL}, content=content)).examples
    assert example.messages and example.messages[2].content == expected


def test_unrepresentable_tool_results_are_reported() -> None:
    wrong = "1: turn 3: 'content' has a value that JSON can't represent: a value of type date32"
    assert faults(messages({"function": CALL}, content={"day": Undecoded("date32")})) == [wrong]


def test_results_are_matched_to_parallel_calls_in_order() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Rain?"},
            {
                "role": "assistant",
                "tool_calls": [{"function": CALL}, {"function": {**CALL, "arguments": {"city": "x"}}}],
            },
            {"role": "tool", "content": "a"},
            {"role": "tool", "content": "b"},
            {"role": "assistant", "content": "No."},
        ],
        "tools": OPENAI,
    }
    (example,) = read(row).examples
    assert example.messages
    assert example.messages[1].ids == (*example.messages[2].ids, *example.messages[3].ids)
