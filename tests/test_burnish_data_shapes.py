"""Rows of well-known datasets are recognised by their keys and read as the conversations that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.data.files import DataError, RawRow
from burnish.data.formats import convert, recognise

PATH = Path("f.jsonl")
ASK, ANSWER = ("user", "Who?"), ("assistant", "Me.")
LATER = [ASK, ANSWER, ("user", "Why?"), ("assistant", "So.")]
HUMAN, GPT = {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}
BAD = {"role": "assistant", "content": "No."}
TREE = {
    "role": "prompter", "text": "Who?", "replies": [
        {"role": "assistant", "text": "No.", "rank": 1, "replies": []},
        {"role": "assistant", "text": "Me.", "rank": 0, "replies": [
            {"role": "prompter", "text": "Why?", "replies": [{"role": "assistant", "text": "So.", "replies": []}]}]},
        {"role": "assistant", "text": "Gone.", "rank": -1, "deleted": True},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "format", "turns"),
    [
        ({"instruction": "Who?", "context": "", "response": "Me.", "category": "qa"}, "dolly", [ASK, ANSWER]),
        ({"instruction": "a", "context": "b", "response": "c"}, "dolly", [("user", "a\nb"), ("assistant", "c")]),
        ({"id": "0", "data": ["Who?", "Me.", "Why?", "So."]}, "ultrachat", LATER),
        ({"message_tree_id": "t", "tree_state": "x", "prompt": TREE}, "oasst", LATER),
        ({"conversations": ["Who?", "Me."], "source": "wiki"}, "sharegpt", [ASK, ANSWER]),
        ({"source": "x", "conversation": [{"input": "Who?", "output": "Me."}, {"input": "Why?", "output": "So."}]},
         "sharegpt", LATER),
        ({"conversations": [{"from": "system", "value": "s", "weight": None}, HUMAN | {"weight": 0.0},
                            GPT | {"weight": 1.0}]}, "sharegpt", [("system", "s"), ASK, ANSWER]),
        ({"chosen": "\n\nHuman: Who?\n\nAssistant: Me.", "rejected": "\n\nHuman: Who?\n\nAssistant: No."},
         "preference", [ASK, ANSWER]),
        ({"prompt": "Who?", "chosen": "Me.", "rejected": "No."}, "preference", [ASK, ANSWER]),
        ({"system": "s", "question": "Who?", "chosen": "Me.", "rejected": "No."}, "preference",
         [("system", "s"), ASK, ANSWER]),
        ({"conversations": [HUMAN], "chosen": GPT, "rejected": BAD}, "preference", [ASK, ANSWER]),
        ({"prompt": "Who?", "messages": [HUMAN, GPT], "chosen": [HUMAN, GPT], "rejected": [HUMAN, BAD]}, "preference",
         [ASK, ANSWER]),
        ({"prompt": [HUMAN], "chosen": [GPT], "rejected": [BAD]}, "preference", [ASK, ANSWER]),
    ],
)  # fmt: skip
def test_row_is_recognised_and_read(row: dict[str, Any], format: str, turns: list[tuple[str, str]]) -> None:
    raw = [RawRow(1, row, 1)]
    assert recognise(raw, PATH) == format
    found = convert(raw, format, PATH)
    assert [(m.role, m.content) for m in found.examples[0].messages or ()] == turns
    assert any("preference pairs: only the chosen answers" in note for note in found.notes) == (format == "preference")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "q", "output": "a", "response": "a"}, "equally well; choose one with data.format"),
        ({"message_id": "1", "parent_id": "0", "role": "prompter", "text": "a"}, "use the file of trees"),
        ({"data": {"a": 1}}, "the rows fit no format"),
    ],
)
def test_ambiguous_or_unusable_rows_are_refused(row: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        recognise([RawRow(1, row, 1)], PATH)


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("dolly", {"instruction": "q", "response": 3}, "'response': expected text, got a number"),
        ("ultrachat", {"data": ["q", "a", "q"]}, "the last turn is a user turn"),
        ("oasst", {"message_tree_id": "1", "prompt": {"role": "prompter", "text": "q"}}, "the tree has no answer"),
        ("preference", {"chosen": "no dialogue", "rejected": "b"}, "no line begins with a mark|no line begins with"),
        ("preference", {"chosen": 1, "rejected": "b"}, "'chosen': expected text or turns, got a number"),
    ],
)
def test_faulty_row_is_named_by_line(format: str, row: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=f"f.jsonl: line 7: .*({expected})"):
        convert([RawRow(7, row, 7)], format, PATH)
