"""Training rows: ids and trained spans, and the errors of examples that can't become rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from burnish.chat import ChatTemplate
from burnish.console import Tick, bar
from burnish.data.formats import Example
from burnish.dialects.find import Found
from burnish.errors import UserError
from burnish.tokenizers.special_text import Chat, Reading
from burnish.tokenizers.vocabulary import Vocabulary

IGNORED = -100
MOST_ROWS_NAMED = 3
FEWEST_TURNS_SHOWN = 2000  # with fewer, the work finishes before a progress bar can be read


class MaskError(UserError):
    """Rows can't be masked with this template and tokenizer.

    `rows` is the number of rows with the most common error.
    """

    def __init__(self, faults: str | Sequence[str], rows: int = 0) -> None:
        super().__init__(faults)
        self.rows = rows


@dataclass(frozen=True)
class Codec:
    """The tokenizer interface used for masking.

    `encode` adds no special tokens but parses the ones in the text. `terminators` are the ids that may end a turn.
    `vocabulary` and `reading` define how special strings in messages are tokenized.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    terminators: frozenset[int]
    bos: tuple[int, ...]  # the tokenizer's prefix for plain texts
    eos: int
    vocabulary: Vocabulary
    reading: Reading = "text"
    # the tokenizer's normalization (NFC ...), and a comparison of decoded and original text that ignores normalization
    normalise: Callable[[str], str] = str
    same: Callable[[str, str], bool] = operator.eq
    # maps a text to a form without normalization differences or the whitespace that templates add around reasoning
    canonical: Callable[[str], str] = str
    # terminators besides eos that end this base's generation: a text that ends with one is complete
    ends: frozenset[int] = frozenset()
    # the chat template's syntax for tool calls and thoughts
    dialects: Found = field(default_factory=Found)

    @property
    def end_ids(self) -> frozenset[int]:
        """The base's end-of-generation ids."""
        return self.ends | {self.eos}

    def chat(self, template: ChatTemplate) -> Chat:
        """Return the message encoder, as used by the server."""
        return Chat(template, self.vocabulary, self.reading)

    def ends_with(self, text: str, content: str) -> bool:
        """Return whether a decoded text ends with a message's content, ignoring outer whitespace and normalization."""
        if text.rstrip().endswith(content.strip()):
            return True
        return self.canonical(text).rstrip().endswith(self.canonical(content).strip())


@dataclass(frozen=True)
class Row:
    """A training sequence. `spans` are the trained ranges [start, end), each a response with its terminator.

    `turns` contains the message index of each span. `cut` is set if the row was truncated inside its last span, which
    then has no end token.
    """

    example: Example
    input_ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turns: tuple[int, ...] = ()
    cut: bool = False

    @property
    def whole(self) -> tuple[tuple[int, int], ...]:
        """The spans that have an end token."""
        return self.spans[:-1] if self.cut else self.spans

    def learned(self, everything: bool = False) -> tuple[tuple[int, int], ...]:
        """Return the trained ranges: the spans, or with `everything` all ids."""
        return ((0, len(self.input_ids)),) if everything else self.spans

    def labels(self, everything: bool = False) -> list[int]:
        """Return the labels: the ids inside the trained ranges, IGNORED elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.learned(everything):
            labels[start:end] = self.input_ids[start:end]
        return labels


class Unmaskable(Exception):
    """An error in one turn: `what` is the same for all rows with this error, `detail` is specific to this row."""

    def __init__(self, what: str, detail: str = "", turn: int | None = None) -> None:
        super().__init__(what + detail)
        self.what, self.detail, self.turn = what, detail, turn


class Faults:
    """The errors in many rows; each kind is reported once, with its first rows and the row count."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, dict[str, None]]] = {}

    def add(self, example: Example, fault: Unmaskable) -> None:
        """Add a row's error."""
        turn = f"assistant turn {fault.turn}: " if fault.turn is not None else ""
        _, rows = self._found.setdefault(fault.what, (turn + fault.what + fault.detail, {}))
        rows[example.where] = None

    def raise_any(self) -> None:
        """Raise MaskError listing all errors, if there are any."""
        if self._found:
            told = [_told(list(rows), text) for text, rows in self._found.values()]
            raise MaskError(told, max(len(rows) for _, rows in self._found.values()))


def assistant_number(example: Example, index: int) -> int:
    """Return the 1-based number of the assistant turn at `index`."""
    return sum(message.role == "assistant" for message in (example.messages or ())[: index + 1])


@contextmanager
def progress(title: str, examples: Sequence[Example]) -> Iterator[Tick]:
    """Show a progress bar counting turns, if there are many."""
    turns = sum(len(example.messages or ()) or 1 for example in examples)
    if turns < FEWEST_TURNS_SHOWN:
        yield lambda done, text="": None
        return
    with bar(title, turns) as tick:
        yield tick


def _told(rows: Sequence[str], text: str) -> str:
    first, others = rows[0], rows[1:]
    if not others:
        return f"{first}: {text}"
    named = ", ".join(others[:MOST_ROWS_NAMED]) + (", ..." if len(others) > MOST_ROWS_NAMED else "")
    return f"{first}: {text} (the same in {len(rows)} rows, also {named})"
