"""The row formats: each is converted to messages, and every invalid row is reported with a suggestion."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.files import DataError, RawRow
from burnish.data.formats import FORMATS, Conversion, Converter, Message, convert, recognise
from train.settings import DataSection

PATH = Path("f.jsonl")
USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
ALPACA = {"instruction": "q", "output": "a"}
WORDS = st.text("abc äß漢", min_size=1).filter(str.strip)


def raw(rows: tuple[Any, ...]) -> list[RawRow]:
    return [RawRow(line, row) for line, row in enumerate(rows, start=1)]


def read(*rows: Any, path: Path = PATH) -> Conversion:
    return convert(raw(rows), recognise(raw(rows), path), path)


def pairs_of(*rows: Any) -> list[tuple[str, str]]:
    messages = read(*rows).examples[0].messages
    assert messages is not None
    return [(m.role, m.content) for m in messages]


def faults(format: str, *rows: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        convert(raw(rows), format, PATH)
    return [fault.removeprefix("f.jsonl: line ") for fault in caught.value.faults]


def sharegpt(*turns: tuple[str, Any], **columns: Any) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], **columns}


@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), system=st.none() | WORDS)
@settings(max_examples=40, deadline=None)
def test_every_format_gives_the_same_conversation(turns: list[tuple[str, str]], system: str | None) -> None:
    expected = [("system", system)] if system else []
    expected += [turn for user, answer in turns for turn in (("user", user), ("assistant", answer))]
    pairs = [pair for user, answer in turns for pair in (("human", user), ("gpt", answer))]
    (user, answer), history = turns[-1], [list(pair) for pair in turns[:-1]]
    messages = [{"role": role, "content": text} for role, text in expected]
    assert pairs_of(sharegpt(*pairs, system=system)) == expected
    assert pairs_of(sharegpt(*([("system", system)] if system else []), *pairs)) == expected
    assert pairs_of({"messages": messages}) == expected
    assert pairs_of({"instruction": user, "output": answer, "history": history, "system": system}) == expected
    assert pairs_of({"prompt": messages[:-1], "completion": messages[-1:]}) == expected


def test_alpaca_joins_instruction_and_input() -> None:
    assert pairs_of({**ALPACA, "input": "i"}) == [("user", "q\ni"), ("assistant", "a")]
    assert (
        pairs_of({**ALPACA, "input": ""}) == pairs_of({**ALPACA, "input": None}) == [("user", "q"), ("assistant", "a")]
    )
    assert pairs_of({"instruction": "", "input": "i", "output": "a"}) == [("user", "i"), ("assistant", "a")]


def test_role_names_and_keys_of_common_datasets_are_accepted() -> None:
    expected = [("system", "s"), ("user", "q"), ("assistant", "a")]
    for name in ("gpt", "chatgpt", "model", "bing", "assistant"):
        assert (
            pairs_of({"conversation": [{"from": "human", "value": "q"}, {"from": name, "value": "a"}]}) == expected[1:]
        )
    assert pairs_of({"conversations": [{"role": "developer", "content": "s"}, USER, ASSISTANT]}) == expected
    parts = [{"type": "text", "text": "q1"}, {"type": "text", "text": "q2"}]
    assert pairs_of({"messages": [{"role": "user", "content": parts}, ASSISTANT]})[0] == ("user", "q1q2")


def test_text_rows_and_bare_strings_are_read() -> None:
    conversion = read({"text": "a"}, {"text": "b"})
    assert (conversion.format, [e.text for e in conversion.examples]) == ("text", ["a", "b"])
    assert [e.text for e in read("a", "b").examples] == ["a", "b"]
    assert read({**ALPACA, "text": "all of it"}).format == "alpaca"


def test_untrained_and_prompt_turns_are_context_only() -> None:
    row = {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}]}
    messages = read(row).examples[0].messages
    assert messages == (
        Message("user", "q"),
        Message("assistant", "a", False),
        Message("user", "q"),
        Message("assistant", "a"),
    )
    assert read({"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]}).examples[0].messages == messages
    assert messages[1].to_dict() == {"role": "assistant", "content": "a"}


def test_unused_columns_are_counted_with_suggestions() -> None:
    conversion = read({**ALPACA, "id": 1, "imput": "x"}, {**ALPACA, "id": 2}, {**ALPACA, "id": None})
    assert conversion.unused_columns == {"id": 2, "imput": 1}
    assert conversion.notes == ("the column 'imput' is not used; did you mean 'input'?",)
    named = {"messages": [{**USER, "name": "n", "weight": None}, ASSISTANT]}
    assert read(named).unused_columns == {"messages[].name": 1}


def test_parquet_errors_name_the_row() -> None:
    with pytest.raises(DataError, match=r"^f\.parquet: row 1: 'output': expected text, got a number$"):
        convert([RawRow(0, {**ALPACA, "output": 1}, 1, "row")], "alpaca", Path("f.parquet"))


def test_rows_on_one_line_are_identified_by_line_and_number() -> None:
    rows = [RawRow(1, {**ALPACA, "output": text}, n, "row") for n, text in enumerate(["a", 1, "", "b"], start=1)]
    with pytest.raises(DataError) as caught:
        convert(rows, "alpaca", PATH)
    assert list(caught.value.faults) == [
        "f.jsonl: line 1, row 2: 'output': expected text, got a number",
        "f.jsonl: line 1, row 3: 'output' is empty, so there is nothing to train on",
    ]


def test_column_errors_are_reported_together() -> None:
    assert faults(
        "alpaca",
        ALPACA,
        {"instrution": "q", "output": "a"},
        {"instruction": "q", "answer": None, "extra": 1},
        {"instruction": "q", "output": 4},
        {"instruction": None, "output": " \n"},
        {"instruction": " ", "input": "", "output": "a"},
        ["q", "a"],
        {**ALPACA, "tools": [{"name": "f"}]},
        {**ALPACA, "tools": "[]", "images": ["x.png"]},
        {**ALPACA, "history": "none"},
        {**ALPACA, "history": [["q", "a"], ["q"]]},
        {**ALPACA, "input": True},
    ) == [
        "2: no 'instruction'; it has 'instrution': did you mean 'instruction'?",
        "3: no 'output' (it has 'instruction', 'extra')",
        "4: 'output': expected text, got a number",
        "5: 'instruction': expected text, got null",
        "5: 'output' is empty, so there is nothing to train on",
        "6: 'instruction' and 'input' are both empty",
        "7: expected an object, got a list",
        "8: 'tools': only conversations (messages, ShareGPT) can have tool calls; remove the column, or these rows",
        "9: 'images': only text can be trained; remove the column, or these rows",
        "10: 'history': expected a list of [user, assistant] pairs, got text",
        "11: pair 2 of 'history': expected two texts, [user, assistant]",
        "12: 'input': expected text, got a boolean",
    ]


def test_prompt_completion_and_text_errors_are_reported() -> None:
    assert faults("prompt-completion", {"prompt": "", "completion": ""}, {"prompt": [USER], "completion": "a"}) == [
        "1: 'completion' is empty, so there is nothing to train on",
        "1: 'prompt' is empty",
        "2: 'prompt' is a list of turns and 'completion' is text; expected two texts or two lists",
    ]
    assert faults(
        "prompt-completion", {"prompt": "q", "completion": [ASSISTANT]}, {"prompt": [USER], "completion": [USER]}
    ) == [
        "1: 'completion': expected text, got a list",
        "2: turns 1 and 2 are both user turns; join them or remove one",
        "2: there is no assistant turn, so there is nothing to train on",
    ]
    assert faults("text", {"text": ""}, {"tex": "a"}, 5) == [
        "1: 'text' is empty, so there is nothing to train on",
        "2: no 'text'; it has 'tex': did you mean 'text'?",
        "3: expected an object, got a number",
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (sharegpt(), "'conversations': expected turns, got an empty list"),
        (sharegpt(("humen", "q"), ("gpt", "a")), "turn 1: 'from' is 'humen'; did you mean 'human'?"),
        (sharegpt(("tool", "q"), ("gpt", "a")), "turn 1: a tool turn; a conversation starts with a user turn"),
        (sharegpt(("human", "q"), ("gpt", "")), "turn 2: the response is empty"),
        (sharegpt(("human", " "), ("gpt", "a")), "turn 1: the user's text is empty"),
        (sharegpt(("human", "q"), ("gpt", None)), "turn 2: 'value': expected text, got null"),
        (sharegpt(("human", 1), ("gpt", "a")), "turn 1: 'value': expected text, got a number"),
        (sharegpt(("human", "q")), "there is no assistant turn, so there is nothing to train on"),
        (
            sharegpt(("gpt", "hello"), ("human", "q"), ("gpt", "a")),
            "turn 1: an assistant turn; a conversation starts with a user turn",
        ),
        (
            sharegpt(("human", "q"), ("human", "q"), ("gpt", "a")),
            "turns 1 and 2 are both user turns; join them or remove one",
        ),
        (
            sharegpt(("human", "q"), ("gpt", "a"), ("human", "q")),
            "turn 3: the last turn is a user turn; a row ends with an assistant turn",
        ),
        (
            sharegpt(("human", "q"), ("system", "s"), ("gpt", "a")),
            "turn 2: a system turn; only the first turn may be a system turn",
        ),
        (
            sharegpt(("system", "s"), ("human", "q"), ("gpt", "a"), system="t"),
            "the row has both a 'system' column and a system turn: keep one of them",
        ),
        (sharegpt(("human", "q"), ("gpt", "a"), conversation=[USER]), "'conversations' and 'conversation'"
         " are both set: remove one"),
        ({"conversations": "none"}, "'conversations': expected a list of turns (as JSON where cells hold"
         " only text), got text"),
        ({"conversation": None}, "no 'conversations' (it has no keys)"),
    ],
)  # fmt: skip
def test_conversation_errors_are_reported(row: dict[str, Any], expected: str) -> None:
    assert faults("sharegpt", row) == [f"1: {expected}"]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (5, "expected an object with 'role' and 'content', or 'from' and 'value', got a number"),
        ({"role": "user", "contnt": "q"}, "no 'content'; it has 'contnt': did you mean 'content'?"),
        ({"from": "gpt"}, "no 'value' (it has 'from')"),
        ({"role": "user", "from": "human", "content": "q"}, "'role' and 'from' are both set: remove one"),
        ({"role": 1, "content": "q"}, "'role': expected text, got a number"),
        ({"role": "assistant", "content": None}, "'content': expected text, got null"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "call 1: the name is missing"),
        ({**ASSISTANT, "weight": 0.5}, "'weight': expected 0 or 1, got 0.5"),
        ({**ASSISTANT, "weight": "half"}, "'weight': expected 0 or 1, got 'half'"),
        ({**ASSISTANT, "loss": 0.7}, "'loss': expected true or false, got 0.7"),
        ({**ASSISTANT, "train": False, "weight": 1}, "'weight' is 1 and 'train' is False: is the turn trained or not?"),
        (
            {**ASSISTANT, "mask": 1},
            "'mask' is 1: tools disagree on its meaning; use 'train': true or false",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "part 1 of 'content' is of type 'image_url'; only text parts are trained",
        ),
    ],
)
def test_turn_errors_are_reported(turn: Any, expected: str) -> None:
    assert faults("messages", {"messages": [USER, ASSISTANT, turn]}) == [f"1: turn 3: {expected}"]


def test_row_with_nothing_to_train_is_an_error() -> None:
    row = {"messages": [USER, {**ASSISTANT, "weight": 0}]}
    assert faults("messages", row) == [
        "1: every assistant turn is excluded (weight 0, train false ...), so there is nothing to train on"
    ]


def test_format_is_chosen_by_the_majority_of_rows() -> None:
    rows = [ALPACA, ALPACA, {"instruction": "q"}]
    assert recognise(raw(tuple(rows)), PATH) == "alpaca"
    for name in ("sharegpt", "messages", "alpaca", "prompt-completion", "text"):
        assert recognise(raw((dict.fromkeys(FORMATS[name].required, "x"),)), PATH) == name


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (({**ALPACA, "messages": []},), "the rows fit messages (1 row) and alpaca (1 row) equally well; choose one"),
        (({"instrution": "q", "output": "a"},), "did you mean 'instruction' instead of 'instrution'?"),
        (({"a": 1}, {"a": 2, "b": 3}), "the rows fit no format; keys found: 'a' (2 rows), 'b' (1 row); sharegpt needs"),
        ((ALPACA, {"a": 1}, {"a": 1}), "most rows fit no format (alpaca fits 1 of 3 rows); keys found: 'a' (2 rows)"),
        (({"data": [ALPACA]},), "the rows seem to be under 'data': save only that list"),
        (({"message_id": "1", "parent_id": "0", "text": "a", "role": "prompter"},), "use the file of trees"),
        ((5,), "the rows fit no format; keys found: none; "),
    ],
)
def test_unrecognised_rows_are_an_error(rows: tuple[Any, ...], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        recognise(raw(rows), PATH)
    assert expected in str(caught.value)
    assert len(caught.value.faults) == 1


def test_unknown_format_suggests_the_nearest_match() -> None:
    with pytest.raises(DataError, match="data.format: unknown format 'share-gpt'; did you mean 'sharegpt'"):
        convert([], "share-gpt", PATH)


def test_data_format_setting_accepts_every_format() -> None:
    assert get_args(DataSection.model_fields["format"].annotation) == ("auto", *FORMATS)


def test_documented_examples_are_recognised() -> None:
    lines = (Path(__file__).parent.parent / "docs" / "prepare-data.md").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("    {")]
    assert [read(row).format for row in rows] == list(FORMATS)


OWN = {"context": "c", "question": "q", "answer_a": "x", "answer_b": "y", "correct_answer": "A"}


@pytest.mark.parametrize("rows", [(OWN,), (OWN, {**OWN, "para": "p", "answer_key": "A"})])
def test_custom_columns_get_a_link_to_the_conversion_page(rows: tuple[Any, ...]) -> None:
    with pytest.raises(DataError) as caught:
        recognise(raw(rows), PATH)
    assert "did you mean" not in str(caught.value)
    assert str(caught.value).endswith("docs/prepare-data.md, 'Columns of your own'")


@pytest.mark.parametrize("cut", [0, 1, 7, 12])
def test_file_converted_in_two_parts_gives_the_same_findings(cut: int) -> None:
    turns = [{"role": "user", "content": "q", "weight": 1}, {"role": "assistant", "content": "a", "note": 1}]
    values = [{"messages": turns, "system": "", "context": f"c{n}", f"extra{n % 3}": n} for n in range(12)]
    raw = [RawRow(n, value, n) for n, value in enumerate(values, start=1)]
    parts = [Converter("messages", "x.jsonl") for _ in range(2)]
    examples = [[part.add(row) for row in rows] for part, rows in zip(parts, (raw[:cut], raw[cut:]), strict=True)]
    parts[0].merge(parts[1])
    whole = convert(raw, "messages", Path("x.jsonl"))
    assert whole.unused_columns and whole.notes and whole.remarks
    assert tuple(e for part in examples for e in part) == whole.examples
    assert parts[0].conversion() == replace(whole, examples=())
