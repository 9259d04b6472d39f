"""Training rows: ids and trained spans, and the faults of examples that can't become rows."""

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
FEWEST_TURNS_SHOWN = 2000  # with fewer, the work is done before anyone could read a bar


class MaskError(UserError):
    """Rows can't be masked with this template and tokenizer.

    `rows` is the number of rows with the most frequent fault.
    """

    def __init__(self, faults: str | Sequence[str], rows: int = 0) -> None:
        super().__init__(faults)
        self.rows = rows


@dataclass(frozen=True)
class Codec:
    """The interface to a tokenizer for masking.

    `encode` adds no special tokens and parses those in the text. `terminators` are the ids that may end a turn.
    `vocabulary` and `reading` define how special strings in messages are read.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    terminators: frozenset[int]
    bos: tuple[int, ...]  # the tokenizer's prefix of plain texts
    eos: int
    vocabulary: Vocabulary
    reading: Reading = "text"
    # the tokenizer's normalization (NFC ...), and a comparison of decoded and original text that ignores it
    normalise: Callable[[str], str] = str
    same: Callable[[str, str], bool] = operator.eq
    # maps texts to one form if they differ only by that, or by the blanks that templates add to reasoning markers
    canonical: Callable[[str], str] = str
    # terminators, besides eos, that end this base's generation: a text that ends with one is complete
    ends: frozenset[int] = frozenset()
    # how the chat template writes tool calls and thoughts
    dialects: Found = field(default_factory=Found)

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end this base's generation."""
        return self.ends | {self.eos}

    def chat(self, template: ChatTemplate) -> Chat:
        """Return the encoder of messages, as the server uses it."""
        return Chat(template, self.vocabulary, self.reading)

    def ends_with(self, text: str, content: str) -> bool:
        """Return whether a decoded text ends with a message's content, ignoring outer blanks and normalization."""
        if text.rstrip().endswith(content.strip()):
            return True
        return self.canonical(text).rstrip().endswith(self.canonical(content).strip())


@dataclass(frozen=True)
class Row:
    """One training sequence. `spans` are the trained ranges [start, end), each a response with its terminator.

    `turns` has the message index of each span. `cut`: the row was truncated inside its last span, which therefore has
    no end token.
    """

    example: Example
    input_ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turns: tuple[int, ...] = ()
    cut: bool = False

    @property
    def whole(self) -> tuple[tuple[int, int], ...]:
        """The spans with an end token."""
        return self.spans[:-1] if self.cut else self.spans

    def learned(self, everything: bool = False) -> tuple[tuple[int, int], ...]:
        """Return the trained ranges: the spans, or all ids."""
        return ((0, len(self.input_ids)),) if everything else self.spans

    def labels(self, everything: bool = False) -> list[int]:
        """Return the labels: the ids inside the spans (or all ids), IGNORED elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.learned(everything):
            labels[start:end] = self.input_ids[start:end]
        return labels


class Unmaskable(Exception):
    """A fault of one turn: `what` is the same for all rows with this fault, `detail` is specific to this row."""

    def __init__(self, what: str, detail: str = "", turn: int | None = None) -> None:
        super().__init__(what + detail)
        self.what, self.detail, self.turn = what, detail, turn


class Faults:
    """The faults of many rows; each kind is reported once, with its first rows and their number."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, dict[str, None]]] = {}

    def add(self, example: Example, fault: Unmaskable) -> None:
        """Add the fault of a row."""
        turn = f"assistant turn {fault.turn}: " if fault.turn is not None else ""
        _, rows = self._found.setdefault(fault.what, (turn + fault.what + fault.detail, {}))
        rows[example.where] = None

    def raise_any(self) -> None:
        """Raise MaskError with all faults, if there are any."""
        if self._found:
            told = [_told(list(rows), text) for text, rows in self._found.values()]
            raise MaskError(told, max(len(rows) for _, rows in self._found.values()))


def assistant_number(example: Example, index: int) -> int:
    """Return the number of the assistant turn at `index`, counted from 1."""
    return sum(message.role == "assistant" for message in (example.messages or ())[: index + 1])


@contextmanager
def progress(title: str, examples: Sequence[Example]) -> Iterator[Tick]:
    """Show progress in turns, if there are many."""
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
