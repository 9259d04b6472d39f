"""The base's special strings in the rows' text: which strings, in which rows, and how they are tokenized."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from burnish.data.files import DataError
from burnish.data.formats import Example
from burnish.tokenizers.special_text import Chat, Reading, find_strings

from .lint import rows_named

MOST_KEPT = 1000  # turns that are kept to be named


def reading(setting: str) -> Reading:
    """Return how special strings in messages are tokenized: only `parse` turns them into control tokens."""
    return "parse" if setting == "parse" else "text"


class SpecialStrings:
    """The special strings in rows' messages, except assistant markers. The findings of a file's parts add up.

    `named` contains the rows of each string, `turns` the strings of each turn: the row's place and the turn's number.
    """

    def __init__(self) -> None:
        self.named: dict[str, array[int]] = {}
        self.turns: dict[tuple[str, int], list[str]] = {}
        self.more = 0

    def add(self, example: Example, chat: Chat) -> None:
        """Add one row's special strings."""
        for index, _, string in find_strings(chat, [message.to_dict() for message in example.messages or ()]):
            rows = self.named.setdefault(string, array("q"))
            if not rows or rows[-1] != example.number:
                rows.append(example.number)
            self._add_turn((example.where, index + 1), [string])

    def merge(self, other: SpecialStrings) -> None:
        """Add the findings in the file's next rows."""
        for string, rows in other.named.items():
            self.named.setdefault(string, array("q")).extend(rows)
        for turn, strings in other.turns.items():
            self._add_turn(turn, strings)
        self.more += other.more

    def rows(self) -> dict[str, tuple[int, ...]]:
        """Return the rows of each string, most frequent first."""
        return {string: tuple(rows) for string, rows in sorted(self.named.items(), key=lambda item: -len(item[1]))}

    def refuse(self, path: str) -> None:
        """Raise DataError listing the turns whose text contains a special string."""
        way = "remove them, or set data.special_tokens to text or parse"
        faults = [
            f"{path}: {where}: turn {turn}: its text has {', '.join(strings)}, special tokens of this base: {way}"
            for (where, turn), strings in self.turns.items()
        ]
        if faults:
            raise DataError(faults, self.more)

    def _add_turn(self, turn: tuple[str, int], strings: Sequence[str]) -> None:
        if turn in self.turns or len(self.turns) < MOST_KEPT:
            found = self.turns.setdefault(turn, [])
            found += [string for string in strings if string not in found]
        else:
            self.more += 1


def written_warning(found: Mapping[str, tuple[int, ...]], unit: str, reading: Reading) -> str:
    """Return a warning with the strings, their rows, and how they are tokenized."""
    made = {
        "text": "trained and served as text (data.special_tokens: text silences this, parse makes them control tokens)",
        "parse": "read as control tokens (data.special_tokens is parse)",
    }
    return f"special strings of this base, {rows_named(found, unit)}, are in the messages: they are {made[reading]}"
