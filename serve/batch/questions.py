"""Rows without answers: a placeholder assistant turn is added where the training readers require one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.data.columns.cells import CellFault, CellLimit, filled, unknown_names
from burnish.data.columns.mapping import ColumnMap
from burnish.data.columns.reading import columns_of, decide
from burnish.data.faults import DataError
from burnish.data.files import RawRow
from burnish.data.messages import ROLES, SPEAKER_KEYS
from burnish.data.schema import fitting
from burnish.data.tables import parsed_list

# stands for a missing answer, so that the readers of training rows apply
MISSING = "(no answer)"
TURN = {"role": "assistant", "content": MISSING}
STAND_IN = {"messages": [{"role": "user", "content": "-"}, TURN]}  # of a text
# columns of a question, and those of its answer
ANSWERS = {"prompt": ("completion",), "instruction": ("output", "response")}
TURNS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Question:
    """A row with an answer, and whether the answer is from the row; or the start of a text to complete."""

    row: RawRow
    answered: bool
    text: str | None = None
    completion: str | None = None


def questions(rows: Sequence[RawRow], title: str, format: str, columns: ColumnMap | None) -> tuple[str, list[Question]]:
    """Return the format of the rows and the question of each. Raises DataError with every error."""
    if columns is not None:
        return "messages", _from_columns(rows, title, columns)
    full = [_completed(row) for row in rows]
    reading = decide([question.row for question in full], title, format)
    if reading.reshape is None:
        return reading.format, full
    faults: list[str] = []
    split = [_split(question.row, reading.reshape.shape, title, faults) for question in full]
    if faults:
        raise DataError(faults)
    return reading.format, [_completed(row) for row in split]


def _split(row: RawRow, shape: Any, title: str, faults: list[str]) -> RawRow:
    """Split a dialogue in one text into turns."""
    try:
        return replace(row, value=shape(row.value).value)
    except CellFault as error:
        faults.append(f"{title}: {row.where}: {error}")
        return row


def fits(columns: ColumnMap, rows: Iterable[RawRow]) -> bool:
    """Return whether rows have the columns used in the templates of the question."""
    there = columns_of(list(rows))
    return not unknown_names(_asking(columns).readers, there, "")


def _asking(columns: ColumnMap) -> ColumnMap:
    """Return the templates without the last answer."""
    last = columns.turns[-1].role
    return replace(columns, turns=columns.turns[:-1]) if last in ("assistant", "completion") else columns


def _from_columns(rows: Sequence[RawRow], title: str, columns: ColumnMap) -> list[Question]:
    if columns.kind == "text":
        raise DataError("columns {text}: no question: set {user, assistant} or {prompt, completion}")
    asking = _asking(columns)
    asking.check(columns_of(rows), title)
    faults: list[str] = []
    found = [_question(row, asking, columns, title, faults) for row in rows]
    if faults:
        raise DataError(faults)
    return found


def _question(row: RawRow, asking: ColumnMap, columns: ColumnMap, title: str, faults: list[str]) -> Question:
    """Return a row's question, with its answer if the row has the columns for it."""
    try:
        if not isinstance(row.value, dict):
            raise CellFault("the row is not an object")
        whole = _shaped(columns, row.value)
        if columns.kind == "completion":
            (prompt,) = (turn.content.render(filled(row.value, asking.used)) for turn in asking.turns)
            text = None if whole is None else str(whole["text"])[len(prompt) :]
            return Question(replace(row, value=STAND_IN), False, prompt, text)
        turns = asking.shape(row.value).value["messages"]
    except CellLimit as error:
        raise DataError([*faults, f"{title}: {row.where}: {error}"]) from None
    except CellFault as error:
        faults.append(f"{title}: {row.where}: {error}")
        return Question(row, False)
    if whole is not None and asking is not columns:
        return Question(replace(row, value=whole), True)
    return _completed(replace(row, value={"messages": turns}))


def _shaped(columns: ColumnMap, value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a row with its answer, or None if the answer's columns are missing or empty."""
    try:
        return columns.shape(value).value if columns.used <= value.keys() else None
    except CellLimit:
        raise
    except CellFault:
        return None


def _completed(row: RawRow) -> Question:
    """Return the row with a placeholder for a missing answer; unchanged if it has one or has another shape."""
    if not isinstance(row.value, dict):
        return Question(row, True)
    full = _with_turn(row.value) or _with_column(row.value)
    return Question(row if full is None else replace(row, value=full), full is None)


def _with_turn(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Add an assistant turn to a conversation that ends with another role."""
    name = next((name for name in TURNS if value.get(name) is not None), None)
    turns = parsed_list(value[name], []) if name and isinstance(value[name], str) else value.get(name or "")
    if name is None or not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return None
    key = next((key for key in SPEAKER_KEYS if turns[-1].get(key) is not None), None)
    if key is None or ROLES.get(str(turns[-1][key])) == "assistant":
        return None
    turn = TURN if key == "role" else {"from": "gpt", "value": MISSING}
    return {**value, name: [*turns, turn]}


def _with_column(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fill an absent or empty column of answers."""
    for question, answers in ANSWERS.items():
        empty = next((name for name in answers if name in value and value[name] in ("", [])), None)
        if value.get(question) is not None and (empty or not fitting(value)):
            turns = isinstance(value[question], list)
            return {**value, empty or answers[0]: [TURN] if turns else MISSING}
    texts = value.get("data")
    if isinstance(texts, list) and len(texts) % 2 and all(isinstance(text, str) for text in texts):
        return {**value, "data": [*texts, MISSING]}  # UltraChat: texts in turn
    return None
