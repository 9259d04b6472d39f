"""Training rows: ids and trained spans, and the errors of examples that can't become rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from burnish.chat import ChatTemplate
from burnish.data.formats import Example
from burnish.dialects.find import Found
from burnish.errors import UserError
from burnish.tokenizers.special_text import Chat, Reading
from burnish.tokenizers.vocabulary import Vocabulary

IGNORED = -100
MOST_ROWS_NAMED = 3


class MaskError(UserError):
    """Raised when rows can't be masked with this template and tokenizer.

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
        self._found: dict[str, _Kind] = {}

    def add(self, example: Example, fault: Unmaskable) -> None:
        """Add a row's error."""
        turn = f"assistant turn {fault.turn}: " if fault.turn is not None else ""
        self._found.setdefault(fault.what, _Kind(turn + fault.what + fault.detail)).add(example.where)

    def merge(self, other: Faults) -> None:
        """Add the errors in the file's next rows."""
        for what, kind in other._found.items():
            self._found.setdefault(what, _Kind(kind.text)).merge(kind)

    @property
    def most(self) -> int:
        """The number of rows with the most common error."""
        return max((kind.count for kind in self._found.values()), default=0)

    def listed(self) -> list[str]:
        """Return one line per kind."""
        return [kind.told() for kind in self._found.values()]

    def raise_any(self) -> None:
        """Raise MaskError listing all errors, if there are any."""
        if self._found:
            raise MaskError(self.listed(), self.most)


@dataclass
class _Kind:
    """A kind of error: its text in the first row, the first rows, and the number of rows."""

    text: str
    rows: list[str] = field(default_factory=list)
    count: int = 0
    last: str = ""

    def add(self, row: str) -> None:
        if row != self.last:
            self.count, self.last = self.count + 1, row
            self.rows += [row] * (len(self.rows) < 2 + MOST_ROWS_NAMED)

    def merge(self, other: _Kind) -> None:
        self.count, self.last = self.count + other.count, other.last
        self.rows = [*self.rows, *other.rows][: 2 + MOST_ROWS_NAMED]

    def told(self) -> str:
        first, *others = self.rows
        if not others:
            return f"{first}: {self.text}"
        named = ", ".join(others[:MOST_ROWS_NAMED]) + (", ..." if len(others) > MOST_ROWS_NAMED else "")
        return f"{first}: {self.text} (the same in {self.count} rows, also {named})"


def assistant_number(example: Example, index: int) -> int:
    """Return the 1-based number of the assistant turn at `index`."""
    return sum(message.role == "assistant" for message in (example.messages or ())[: index + 1])
