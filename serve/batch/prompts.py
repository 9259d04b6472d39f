"""Rows of a data file as questions: the conversation up to the last assistant turn, which is kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.console import say
from burnish.data.faults import DataError
from burnish.data.files import RawRow, read_rows
from burnish.data.formats import Message, convert, recognise
from burnish.data.messages import ROLES, SPEAKER_KEYS
from burnish.data.tables import parsed_list

# stands for a missing answer, so that the readers of training rows apply
MISSING = "(no answer)"
TURNS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Prompt:
    """A row and its question. `number` counts from 0; `value` are the row's columns as read.

    `messages` and `tools` have OpenAI's format; `expected` is the assistant turn that was left out, or None.
    """

    number: int
    where: str
    value: dict[str, Any]
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    expected: Message | None


def read_prompts(path: Path, format: str = "auto", system: str | None = None) -> list[Prompt]:
    """Return the questions of a data file, in order. Raises DataError with every fault of every row.

    `system` is the system message of rows that have none.
    """
    notes: list[str] = []
    rows = read_rows(path, notes)
    full = [_completed(row) for row in rows]
    name = recognise(full, path) if format == "auto" else format
    if name == "text":
        raise DataError(f"{path}: rows of plain text have no question: expected conversations, or a column 'prompt'")
    conversion = convert(full, name, path)
    for note in [*notes, *conversion.remarks]:
        say(f"data: {note}")
    say(f"data: {path}: {len(rows):,} rows, format {name}")
    prompts = []
    for number, (row, whole, example) in enumerate(zip(rows, full, conversion.examples, strict=True)):
        *before, last = example.messages or ()
        head = [Message("system", system)] if system and before[0].role != "system" else []
        messages = [message.to_dict() for message in (*head, *before)]
        expected = last if whole.value is row.value else None
        prompts.append(Prompt(number, row.where, dict(row.value), messages, list(example.tools), expected))
    return prompts


def _completed(row: RawRow) -> RawRow:
    """Return the row with a stand-in for a missing answer; unchanged if it has one, or is of another shape."""
    if not isinstance(row.value, dict):
        return row
    return replace(row, value=_with_turn(row.value) or _with_column(row.value) or row.value)


def _with_turn(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Add an assistant turn to a conversation that ends with another one."""
    name = next((name for name in TURNS if value.get(name) is not None), None)
    turns = parsed_list(value[name], []) if name and isinstance(value[name], str) else value.get(name or "")
    if name is None or not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return None
    key = next((key for key in SPEAKER_KEYS if turns[-1].get(key) is not None), None)
    if key is None or ROLES.get(str(turns[-1][key])) == "assistant":
        return None
    turn = {"role": "assistant", "content": MISSING} if key == "role" else {"from": "gpt", "value": MISSING}
    return {**value, name: [*turns, turn]}


def _with_column(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fill an absent or empty column of answers."""
    for question, answer in (("prompt", "completion"), ("instruction", "output")):
        if value.get(question) is not None and value.get(answer) in (None, "", []):
            turns = isinstance(value[question], list)
            return {**value, answer: [{"role": "assistant", "content": MISSING}] if turns else MISSING}
    return None
