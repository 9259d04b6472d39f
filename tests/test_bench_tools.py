"""The tool-call benchmark: rows from the leaderboard's questions, and its rules for correct calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.toolcalls.questions import REFUSAL, Question, arguments, read, schema, split
from bench.toolcalls.score import right
from burnish.data.files import RawRow
from burnish.data.formats import convert
from burnish.errors import UserError

PARAMETERS = {
    "type": "dict",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "scale": {"type": "float"},
        "type": {"type": "string"},
        "at": {"type": "dict", "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}}},
        "tags": {"type": "array", "items": {"type": "string"}},
        "any": {"type": "any"},
    },
    "required": ["city"],
}
WEATHER = {"name": "geo.weather", "description": "The weather.", "parameters": PARAMETERS}
TIME = {"name": "time", "description": "The time.", "parameters": {"type": "dict", "properties": {}, "required": []}}
ACCEPTED: dict[str, Any] = {
    "city": ["New York, NY", "NYC"],
    "days": ["", 3],
    "scale": [1.5, 2.0],
    "at": [{"x": [1, 2], "y": ["", 0]}],
    "tags": [["Wind", "rain"]],
}
GIVEN = {"city": "NYC", "scale": 1.5, "at": {"x": 2}, "tags": ["wind", "Rain"]}


def question(*truth: dict[str, Any], category: str = "multiple") -> Question:
    return Question(f"{category}_1", ({"role": "user", "content": "Weather?"},), (WEATHER, TIME), truth)


def test_training_row_of_a_question_has_correct_calls() -> None:
    asked_question = question({"geo.weather": ACCEPTED}, {"time": {}}, category="parallel")
    (example,) = convert([RawRow(1, asked_question.row())], "messages", Path("rows.jsonl")).examples
    calls = [(call.name, call.value()) for call in (example.messages or ())[-1].calls]
    assert calls[0][1] == {"city": "New York, NY", "scale": 1.5, "at": {"x": 1}, "tags": ["Wind", "rain"]}
    assert right(asked_question, calls) and right(asked_question, calls[::-1])
    assert not right(asked_question, calls[:1]) and not right(asked_question, [*calls, calls[0]])


def test_types_are_converted_to_json_schema() -> None:
    found = schema(PARAMETERS)
    assert found["type"] == "object" and found["properties"]["at"]["type"] == "object"
    assert found["properties"]["scale"] == {"type": "number"} and found["properties"]["any"] == {}
    assert found["properties"]["type"] == {"type": "string"}


@pytest.mark.parametrize(
    "change, good",
    [
        ({}, True),
        ({"days": 3}, True),
        ({"days": 4}, False),
        ({"days": "3"}, False),
        ({"days": True}, False),
        ({"scale": 2}, True),
        ({"scale": "2.0"}, False),
        ({"city": "new york NY"}, True),
        ({"city": "York"}, False),
        ({"at": {"x": 1, "y": 0}}, True),
        ({"at": {"x": 1, "z": 0}}, False),
        ({"at": {"y": 0}}, False),
        ({"tags": ["rain", "wind"]}, False),
        ({"tags": "wind"}, False),
        ({"country": "US"}, False),
        ({"city": None}, False),
        ({"scale": None}, False),
    ],
)
def test_argument_check_follows_the_leaderboard(change: dict[str, Any], good: bool) -> None:
    """An argument set to None is omitted; `days` is optional."""
    given = {key: value for key, value in {**GIVEN, **change}.items() if value is not None}
    assert right(question({"geo.weather": ACCEPTED}), [("geo.weather", given)]) is good


def test_wrong_function_fails_and_no_call_is_correct_if_none_fits() -> None:
    assert not right(question({"geo.weather": ACCEPTED}), [("weather", GIVEN)])
    nothing = question(category="irrelevance")
    assert right(nothing, []) and not right(nothing, [("time", {})])
    assert nothing.row()["messages"][-1] == {"role": "assistant", "content": REFUSAL}


def test_only_optional_parameters_are_omitted_from_rows() -> None:
    assert arguments({"city": ["", "Bern"], "days": [1, ""]}, PARAMETERS) == {"city": "Bern"}


def test_two_thirds_of_each_category_are_trained_in_any_file_order(tmp_path: Path) -> None:
    lines = [
        {"id": f"{kind}_{n}", "question": [[{"role": "user", "content": "?"}]], "function": [TIME],
         "ground_truth": [{"time": {}}] if kind == "multiple" else []}
        for kind in ("multiple", "irrelevance") for n in range(9)
    ]  # fmt: skip
    (path := tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train, rest = split(read(path))
    assert sorted(q.category for q in train) == ["irrelevance"] * 6 + ["multiple"] * 6
    assert not {q.id for q in train} & {q.id for q in rest} and len(rest) == 6
    assert split(read(path)[::-1])[0] == train


@pytest.mark.parametrize("line, fault", [('{"id": "multiple_1"}', "expected an object with"), ("{", "line 1")])
def test_malformed_question_is_an_error_with_its_line(tmp_path: Path, line: str, fault: str) -> None:
    (path := tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(UserError, match=fault):
        read(path)
