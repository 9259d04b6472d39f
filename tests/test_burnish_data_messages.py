"""Data besides the texts of turns (flags, reasoning, contexts, empty system turns) is used or reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.data.files import DataError, read_rows
from burnish.data.formats import Conversion, Message, Newlines, convert, recognise

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
ALPACA = {"instruction": "q", "output": "a"}
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEARNED = {"weight": (1, 0), "train": (True, False), "training": (True, False), "trainable": (True, False)}
LEARNED |= {"learn": (True, False), "loss": (True, False), "masked": (False, True), "mask": (False, True)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def read(path: Path, *rows: Any, newlines: Newlines = "keep") -> Conversion:
    """Read rows through a file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw = read_rows(path)
    return convert(raw, recognise(raw, path), path, newlines)


def first(conversion: Conversion) -> tuple[Message, ...]:
    messages = conversion.examples[0].messages
    assert messages is not None
    return messages


# ---- flags -----------------------------------------------------------------------------------------------------------


@FAST
@given(name=st.sampled_from(sorted(LEARNED)), wanted=st.lists(st.booleans(), min_size=1, max_size=4), data=st.data())
def test_every_training_flag_selects_the_trained_turns(
    tmp_path: Path, name: str, wanted: list[bool], data: Any
) -> None:
    wanted = [*wanted, True]
    yes, no = LEARNED[name]
    turns: list[dict[str, Any]] = []
    for learned in wanted:
        value: Any = yes if learned else no
        if name != "mask" and data.draw(st.booleans()):
            value = data.draw(st.sampled_from([int(value), float(value), str(value).lower(), bool(value)]))
        flags = {} if learned and data.draw(st.booleans()) else {name: value}
        turns += [USER, {**ASSISTANT, **flags}]
    conversion = read(tmp_path / "x.jsonl", {"messages": turns})
    assert [m.train for m in first(conversion) if m.role == "assistant"] == wanted
    assert (conversion.unused_columns, conversion.notes, conversion.remarks) == ({}, (), ())


def test_training_flags_on_other_turns_are_ignored_with_one_note(path: Path) -> None:
    row = {"messages": [{**USER, "weight": 1, "loss": True}, {**ASSISTANT, "weight": 1}]}
    conversion = read(path, *[row] * 3, {"messages": [{**USER, "weight": 0, "masked": True}, ASSISTANT]})
    assert all(m.train for e in conversion.examples for m in e.messages or ())
    (remark,) = conversion.remarks
    counts, _, effect = remark.partition(" on turns that are not the assistant's: ")
    assert sorted(counts.split(", ")) == [
        "messages[].loss (3 rows)",
        "messages[].masked (1 row)",
        "messages[].weight (4 rows)",
    ]
    assert effect == "ignored, only responses are trained"
    assert conversion.notes == ()


def test_unsupported_training_flags_cause_a_warning(path: Path) -> None:
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    conversion = read(
        path,
        {"messages": [USER, {**ASSISTANT, "train_detail": detail}]},
        {"messages": [USER, ASSISTANT], "train": False},
    )
    assert conversion.notes == (
        "messages[].train_detail (1 row): parts of a turn can't be masked, the whole turn is trained",
        "the columns train (1 row) exclude rows from training, but are not used: remove those rows, or set"
        " the flag on the turns",
    )


# ---- thoughts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
@pytest.mark.parametrize("format", ["turn", "messages", "alpaca", "prompt-completion", "sharegpt"])
def test_reasoning_is_kept_with_the_response_and_reported(path: Path, key: str, format: str) -> None:
    rows: dict[str, Any] = {
        "turn": {"messages": [USER, {**ASSISTANT, key: "because"}]},
        "messages": {"messages": [USER, ASSISTANT], key: "because"},
        "alpaca": {**ALPACA, key: "because"},
        "prompt-completion": {"prompt": "q", "completion": "a", key: "because"},
        "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], key: "because"},
    }
    without = json.loads(json.dumps(rows[format]).replace('"because"', "null"))
    conversion = read(path, *[rows[format]] * 3, without)
    assert [e.messages[-1].reasoning for e in conversion.examples if e.messages] == ["because"] * 3 + [""]
    name = f"{'messages[].' * (format == 'turn')}{key}"
    assert conversion.remarks == (f"{name} (3 rows): reasoning is passed to the chat template",)
    assert first(conversion)[-1].to_dict() == {**ASSISTANT, "reasoning_content": "because"}
    assert conversion.unused_columns == {}
    assert read(path, without).remarks == ()


def test_reasoning_parts_are_separated_from_the_text(path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "because"}, {"type": "text", "text": "a"}]
    conversion = read(path, {"messages": [USER, {"role": "assistant", "content": parts}]})
    assert (first(conversion)[-1].content, first(conversion)[-1].reasoning) == ("a", "because")
    assert conversion.remarks[0].startswith("messages[].content[].thinking (1 row): reasoning is passed to the chat")


def test_reasoning_column_beside_plain_text_causes_a_warning(path: Path) -> None:
    (note,) = read(path, {"text": "a", "reasoning": "because"}, {"text": "b"}).notes
    assert note == "reasoning (1 row): reasoning is not trained in this format, include it in 'text'"


def test_boolean_columns_are_not_read_as_reasoning(path: Path) -> None:
    conversion = read(path, {**ALPACA, "thinking": False, "reasoning": ""})
    assert (first(conversion)[-1].reasoning, conversion.remarks) == ("", ())


# ---- contexts --------------------------------------------------------------------------------------------------------


def test_context_column_is_used_as_missing_input(path: Path) -> None:
    conversion = read(
        path, {**ALPACA, "context": "c"}, {**ALPACA, "context": "c", "input": ""}, {**ALPACA, "context": ""}
    )
    assert [e.messages[0].content for e in conversion.examples if e.messages] == ["q\nc", "q\nc", "q"]
    assert (conversion.notes, conversion.remarks) == ((), ("the column 'context' was read as 'input' (2 rows)",))


@pytest.mark.parametrize("column", ["context", "input", "documents", "passage", "background"])
def test_unused_context_columns_cause_a_warning(path: Path, column: str) -> None:
    rows = [{"prompt": "q", "completion": "a", column: text} for text in ("some", "text", "", None, ["a"])]
    conversion = read(path, *rows)
    assert conversion.notes == (
        f"the columns {column} (3 rows) are not used: the model learns to answer without their text; if the"
        " questions need it, put it into 'prompt'",
    )
    assert conversion.unused_columns == {}
    both = read(path, {**ALPACA, "input": "i", "context": "c"})
    assert both.notes[0].startswith("the columns context (1 row) are not used")
    assert first(both)[0].content == "q\ni"


# ---- system turns and line breaks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", None, " \n", []])
def test_empty_system_turns_are_dropped_with_one_note(path: Path, empty: Any) -> None:
    column = {"system": empty if isinstance(empty, str) else None}
    turns = [{"role": "system", "content": empty}, USER, ASSISTANT]
    conversion = read(path, *[{"messages": turns, **column}] * 3, {"messages": [USER, ASSISTANT]})
    assert {tuple(m.role for m in e.messages or ()) for e in conversion.examples} == {("user", "assistant")}
    assert conversion.remarks == ("empty system turns were dropped (3 rows)",)
    assert conversion.notes == ()
    assert first(read(path, {"messages": turns, "system": "s"}))[0] == Message("system", "s")


def test_errors_after_an_empty_system_turn_keep_turn_numbers(path: Path) -> None:
    with pytest.raises(DataError, match="turns 2 and 3 are both user turns"):
        read(path, {"messages": [{"role": "system", "content": ""}, USER, USER, ASSISTANT]})


def test_system_column_equal_to_the_system_turn_is_accepted(path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, USER, ASSISTANT]
    assert [m.role for m in first(read(path, {"messages": turns, "system": "s"}))] == ["system", "user", "assistant"]


@FAST
@given(text=st.text("a\r\n", min_size=1, max_size=9).map(lambda text: f"x{text}y"))
def test_line_breaks_are_converted_to_lf_only_if_set(tmp_path: Path, text: str) -> None:
    row = {"messages": [{**USER, "content": text}, {**ASSISTANT, "content": text}]}
    assert [m.content for m in first(read(tmp_path / "x.jsonl", row))] == [text, text]
    conversion = read(tmp_path / "x.jsonl", row, {"messages": [USER, ASSISTANT]}, newlines="lf")
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert [m.content for m in first(conversion)] == [plain, plain]
    assert conversion.remarks == (("CR LF and CR became LF (1 row; data.newlines lf)",) if "\r" in text else ())


def test_repeated_error_is_reported_once_with_its_rows(path: Path) -> None:
    rows = [{"instruction": "q", "output": 1 if n % 2 else "a"} for n in range(20)]
    with pytest.raises(DataError) as caught:
        read(path, *rows, {"instruction": "", "output": "a"})
    assert caught.value.report() == (
        f"error: {path}: line 2: 'output': expected text, got a number (10 lines: 2, 4, 6 and 7 more)\n"
        f"error: {path}: line 21: 'instruction' and 'input' are both empty"
    )


def test_reasoning_is_counted_once_and_only_in_assistant_turns(path: Path) -> None:
    thought = {"type": "thinking", "thinking": "hm"}
    user = {"role": "user", "content": [thought, {"type": "text", "text": "q"}]}
    answer = {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}], "reasoning": "hm"}
    conversion = read(path, {"messages": [user, answer]})
    assert [message.reasoning for message in first(conversion)] == ["", "hm"]
    assert any("thoughts (1 row) on turns that are not the assistant's" in remark for remark in conversion.remarks)
