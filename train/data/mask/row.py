"""What a training row is: ids, which of them are learned, and the faults that keep an example from being one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from burnish.chat import ChatTemplate
from burnish.console import Tick, bar
from burnish.data.formats import Example
from burnish.errors import UserError
from burnish.tokenizers.special_text import Chat, Reading
from burnish.tokenizers.vocabulary import Vocabulary

IGNORED = -100
MOST_ROWS_NAMED = 3
FEWEST_TURNS_SHOWN = 2000  # below, the work is done before a bar could be read


class MaskError(UserError):
    """Rows whose responses can't be told from their prompts with this template and tokenizer.

    `rows` counts those with the most frequent of the faults.
    """

    def __init__(self, faults: str | Sequence[str], rows: int = 0) -> None:
        super().__init__(faults)
        self.rows = rows


@dataclass(frozen=True)
class Codec:
    """What masking needs of a tokenizer.

    `encode` adds no special tokens and parses those in the text; `terminators` are the ids that may end a turn.
    `vocabulary` and `reading` say what special strings in messages are.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    terminators: frozenset[int]
    bos: tuple[int, ...]  # what the tokenizer puts before a plain text
    eos: int
    vocabulary: Vocabulary
    reading: Reading = "text"
    # what the tokenizer does to a text's characters (NFC ...), and whether a decoded text is the given one but for that
    normalise: Callable[[str], str] = str
    same: Callable[[str, str], bool] = operator.eq
    # one form of all texts that differ by that, or by the blanks that templates put beside the marks of a thought
    canonical: Callable[[str], str] = str
    # which of the terminators end a generation of this base, beside eos: where a text spells one last, it is ended
    ends: frozenset[int] = frozenset()

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a generation of this base."""
        return self.ends | {self.eos}

    def chat(self, template: ChatTemplate) -> Chat:
        """Return what turns messages into ids, as the server will."""
        return Chat(template, self.vocabulary, self.reading)

    def ends_with(self, text: str, content: str) -> bool:
        """Whether a decoded text ends with a message's content, but for outer blanks and what the tokenizer changes."""
        if text.rstrip().endswith(content.strip()):
            return True
        return self.canonical(text).rstrip().endswith(self.canonical(content).strip())


@dataclass(frozen=True)
class Row:
    """One training sequence. `spans` are the trained [start, end) ranges, each a response with its terminator.

    `turns` says which assistant turn (index into the messages) each span is. `cut`: the row was shortened inside its
    last span, which therefore has no end token.
    """

    example: Example
    input_ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turns: tuple[int, ...] = ()
    cut: bool = False

    @property
    def whole(self) -> tuple[tuple[int, int], ...]:
        """The spans that have their end token."""
        return self.spans[:-1] if self.cut else self.spans

    def learned(self, everything: bool = False) -> tuple[tuple[int, int], ...]:
        """Return the ranges in the loss: the spans, or all ids."""
        return ((0, len(self.input_ids)),) if everything else self.spans

    def labels(self, everything: bool = False) -> list[int]:
        """Return the labels: the ids inside the spans (or all ids), IGNORED elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.learned(everything):
            labels[start:end] = self.input_ids[start:end]
        return labels


class Unmaskable(Exception):
    """What is wrong with one turn: `what` is the same in every row with this fault, `detail` is this row's own."""

    def __init__(self, what: str, detail: str = "", turn: int | None = None) -> None:
        super().__init__(what + detail)
        self.what, self.detail, self.turn = what, detail, turn


class Faults:
    """The faults of many rows: each kind is told once, with the first row, how many have it, and the first others."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, dict[str, None]]] = {}

    def add(self, example: Example, fault: Unmaskable) -> None:
        """Keep the fault of a row."""
        turn = f"assistant turn {fault.turn}: " if fault.turn is not None else ""
        _, rows = self._found.setdefault(fault.what, (turn + fault.what + fault.detail, {}))
        rows[example.where] = None

    def raise_any(self) -> None:
        """Raise MaskError with all of them, if there are any."""
        if self._found:
            told = [_told(list(rows), text) for text, rows in self._found.values()]
            raise MaskError(told, max(len(rows) for _, rows in self._found.values()))


def assistant_number(example: Example, index: int) -> int:
    """Return which assistant turn the message at `index` is, counted from 1."""
    return sum(message.role == "assistant" for message in (example.messages or ())[: index + 1])


@contextmanager
def progress(title: str, examples: Sequence[Example]) -> Iterator[Tick]:
    """Show progress over examples, in turns, where there are many."""
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
    return f"{first}: {text} (so in {len(rows)} rows: {named} as well)"
