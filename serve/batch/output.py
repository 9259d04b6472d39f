"""The rows of the output file: the input's columns, then the answer, its tokens and any error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.errors import UserError
from burnish.files import atomic_file

from .journal import Journal
from .prompts import Prompt
from .results import Answer, Result
from .tables import write_table

ANSWER, ERROR = "answer", "error"
ALWAYS = (ANSWER, "finish_reason", "prompt_tokens", "completion_tokens", ERROR)
CHOICE = "choice"  # with several answers per row
# only if an answer has them
SOMETIMES = ("reasoning_content", "tool_calls")


class OutputError(UserError):
    """Raised when the output file exists, or a column name is already in use."""


def columns_of(prompts: Sequence[Prompt]) -> list[str]:
    """Return the rows' columns in order of first appearance."""
    return list(dict.fromkeys(name for prompt in prompts for name in prompt.value))


def added_columns(several: bool) -> tuple[str, ...]:
    """Return the columns that may be added; `several`: rows have several answers."""
    return (*([CHOICE] if several else []), *ALWAYS[:1], *SOMETIMES, *ALWAYS[1:])


def check_columns(data: str, prompts: Sequence[Prompt], prefix: str, several: bool) -> None:
    """Raise OutputError if the rows already have a column that would be added."""
    taken = [name for name in columns_of(prompts) if name in {prefix + own for own in added_columns(several)}]
    if taken:
        raise OutputError(
            f"{data}: the rows already have {', '.join(repr(name) for name in taken)}, which would be added: add others"
            f" with --prefix model_ (model_{ANSWER}, …)"
        )


def write_answers(out: Path, prompts: Sequence[Prompt], journal: Journal, prefix: str, several: bool) -> None:
    """Write every row with its results, in the input's order, through a temporary file. Raises TableError."""

    def rows() -> Iterator[dict[str, Any]]:
        for prompt in prompts:
            result = journal.get(prompt.number) or Result(error="not asked")
            for number, answer in enumerate(result.answers or (None,)):
                own = _own(result, answer, number if several else None)
                yield {**prompt.value, **{prefix + name: value for name, value in own.items()}}

    seen = {name for row in rows() for name in row}
    added = [prefix + name for name in added_columns(several)]
    columns = [*columns_of(prompts), *(name for name in added if name in seen)]
    with atomic_file(out) as temporary:
        write_table(temporary, out.suffix, columns, rows)


def _own(result: Result, answer: Answer | None, number: int | None) -> dict[str, Any]:
    """Return the added cells of one answer, or of a row that failed."""
    choice = {} if number is None else {CHOICE: number}
    text = (
        {ANSWER: answer.text, "finish_reason": answer.finish_reason}
        if answer
        else {ANSWER: None, "finish_reason": None}
    )
    extra = {"reasoning_content": answer.reasoning, "tool_calls": list(answer.tool_calls)} if answer else {}
    counts = {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.completion_tokens}
    return {**choice, **text, **{name: value for name, value in extra.items() if value}, **counts, ERROR: result.error}
