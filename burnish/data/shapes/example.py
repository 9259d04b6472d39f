"""A row as training uses it, and the findings in all rows of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..messages import Message
from ..reading.row import Unit, place
from ..tools.definitions import Definition


@dataclass(frozen=True)
class Example:
    """One row as training uses it: a conversation or a plain text. `tools` are the definitions that its prompts show.

    `prompt` is the start of a text that is not trained. `line`, `row`, `unit` and `file` locate the row in its file, as
    in RawRow.
    """

    line: int
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    row: int = 0
    unit: Unit = "line"
    file: str = ""
    tools: tuple[Definition, ...] = field(default=(), compare=False)
    prompt: str = ""

    @property
    def number(self) -> int:
        """The row's line, or its row number where rows share lines."""
        return self.line if self.unit == "line" else self.row

    @property
    def where(self) -> str:
        """The row's location in its file, for messages."""
        return place(self.line, self.row, self.unit, self.file)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield (role, text) for all text of the row; the role is "thought" for reasoning, "" for a plain text."""
        if self.text is not None:
            yield "", self.text
        for message in self.messages or ():
            if message.reasoning:
                yield "thought", message.reasoning
            yield message.role, message.content
            for call in message.calls:
                yield "call", f"{call.name}({call.arguments})"


@dataclass(frozen=True)
class Conversion:
    """All rows of a file. `unused_columns` counts, per column that the format does not know, the rows that have it.

    `notes` are warnings about what is not trained or was possibly not intended; `remarks` say how rows were read.
    """

    format: str
    examples: tuple[Example, ...]
    unused_columns: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def with_lf(example: Example) -> Example:
    """Return the example with LF line ends only; the same object if it has no others."""

    def plain(text: str) -> str:
        return text.replace("\r\n", "\n").replace("\r", "\n")

    if not any("\r" in text for _, text in example.texts()):
        return example
    messages = example.messages and tuple(
        replace(m, content=plain(m.content), reasoning=plain(m.reasoning)) for m in example.messages
    )
    text = None if example.text is None else plain(example.text)
    return replace(example, messages=messages, text=text, prompt=plain(example.prompt))
