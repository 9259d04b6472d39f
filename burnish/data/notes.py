"""What rows have and training can't use, counted over a file and said once: thoughts, contexts, flags, empty turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..console import counted
from .flags import FLAGS, PARTIAL
from .messages import Found
from .schema import CONTEXTS

# what a context would have to be put into to be trained
PLACES = {"alpaca": "'input'", "prompt-completion": "'prompt'", "text": "'text'"}


@dataclass
class Losses:
    """Counts of the rows of one file. `named` are the columns that the notes speak of."""

    format: str
    thoughts: Counter[str] = field(default_factory=Counter)
    contexts: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    partial: Counter[str] = field(default_factory=Counter)
    row_flags: Counter[str] = field(default_factory=Counter)
    blank_systems: int = 0
    as_input: int = 0
    newlines: int = 0

    def add(self, row: Mapping[str, Any], found: Found, known: frozenset[str]) -> None:
        """Count one row: its columns, and what was found in its turns."""
        self.thoughts.update(found.thoughts)
        self.ignored.update(found.ignored)
        self.partial.update(key for key in found.unused if key.rpartition(".")[2] in PARTIAL)
        others = [key for key in row if key not in known]
        self.contexts.update(key for key in others if key in CONTEXTS and _has_text(row[key]))
        self.row_flags.update(key for key in others if key in FLAGS and row[key] in (False, 0))
        self.blank_systems += found.blank_system
        self.as_input += found.as_input

    @property
    def named(self) -> frozenset[str]:
        return frozenset().union(self.contexts, self.partial, self.row_flags)

    def notes(self) -> Iterator[str]:
        """Yield the warnings."""
        if self.thoughts and self.format == "text":
            yield f"thoughts, {_counted(self.thoughts)}, are not trained: write them into 'text'"
        if self.contexts:
            place = PLACES.get(self.format, "the user's turn")
            yield (
                f"the columns {_counted(self.contexts)} are not trained: the model learns to answer without their text;"
                f" where the questions need it, put it into {place}"
            )
        if self.partial:
            yield f"{_counted(self.partial)}: parts of a turn can't be left out, the whole turn is learned"
        if self.row_flags:
            yield (
                f"the columns {_counted(self.row_flags)} say that rows are not to be learned, and are not used: take"
                " those rows out, or put the flag on the turns"
            )

    def remarks(self) -> Iterator[str]:
        """Yield what was done."""
        if self.thoughts and self.format != "text":
            yield f"thoughts, {_counted(self.thoughts)}, go to the chat template"
        if self.ignored:
            yield f"{_counted(self.ignored)} on turns that are not the assistant's: ignored, only responses are learned"
        if self.blank_systems:
            yield f"empty system turns are left out ({counted(self.blank_systems, 'row')})"
        if self.as_input:
            yield f"the column 'context' is read as 'input' ({counted(self.as_input, 'row')})"
        if self.newlines:
            yield f"CR LF and CR became LF ({counted(self.newlines, 'row')}; data.newlines lf)"


def _has_text(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, (list, dict)) and bool(value)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({counted(count, 'row')})" for name, count in counts.items())
