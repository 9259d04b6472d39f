"""Turn the rows of a dataset into prompts: the conversation without its last assistant turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from burnish.console import say
from burnish.data.columns.mapping import ColumnMap
from burnish.data.faults import DataError
from burnish.data.files import Located, read_rows
from burnish.data.formats import Converter, Example, Message

from .questions import Question, fits, questions


@dataclass(frozen=True)
class Prompt:
    """A row and its question. `number` counts from 0; `value` are the row's columns as read.

    `messages` and `tools` have OpenAI's format; or `text` is a text to complete, without a chat template. `expected`
    is the assistant turn that was left out, or None.
    """

    number: int
    where: str
    value: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    expected: Message | None = None
    text: str | None = None


def read_prompts(
    source: Located,
    format: str = "auto",
    system: str | None = None,
    columns: ColumnMap | None = None,
    trained: ColumnMap | None = None,
) -> list[Prompt]:
    """Return the questions of a dataset, in order. Raises DataError with every error of every row.

    `system` is the system message of rows that have none; `columns` are templates that make the rows, and `trained`
    those of the run, which are used if the rows have their columns.
    """
    notes: list[str] = []
    rows = read_rows(source, notes)
    if columns is None and format == "auto" and trained is not None and fits(trained, rows[:100]):
        columns = trained
        notes.append("data.columns as in the run's training")
    name, asked = questions(rows, source.title, format, columns)
    if name == "text":
        raise DataError(
            f"{source.title}: rows of plain text have no question: expected conversations, a column 'prompt', or"
            " --columns that make one"
        )
    converter = Converter(name, source.title)
    examples = [converter.add(question.row) for question in asked]
    conversion = converter.conversion()
    for note in [*notes, *conversion.remarks]:
        say(f"data: {note}")
    say(f"data: {source.title}: {len(rows):,} rows" + (f", format {name}" if columns is None else ""))
    prompts = []
    for number, (row, question, example) in enumerate(zip(rows, asked, examples, strict=True)):
        assert example is not None  # otherwise the conversion has errors
        prompts.append(_prompt(number, row.where, row.value, question, example, system))
    return prompts


def _prompt(
    number: int, where: str, value: Mapping[str, Any], question: Question, example: Example, system: str | None
) -> Prompt:
    if question.text is not None:
        answer = None if question.completion is None else Message("assistant", question.completion)
        return Prompt(number, where, dict(value), expected=answer, text=question.text)
    *before, last = example.messages or ()
    head = [Message("system", system)] if system and before[0].role != "system" else []
    messages = [message.to_dict() for message in (*head, *before)]
    values = dict(value) if isinstance(value, dict) else {"text": value}  # a dialogue in a text
    return Prompt(number, where, values, messages, list(example.tools), last if question.answered else None)
