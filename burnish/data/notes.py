"""Count the parts of a file's rows that training can't use, reported once: reasoning, contexts, flags, empty turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..console import counted
from .flags import FLAGS, PARTIAL
from .messages import Found
from .schema import CONTEXTS

# the column where a context must be to be trained
PLACES = {"alpaca": "'input'", "prompt-completion": "'prompt'", "text": "'text'"}


PAIRS = "preference pairs: only the chosen answers are trained, the rejected ones are not used"


@dataclass
class Losses:
    """Counts over the rows of one file. `named` contains the columns that the notes mention."""

    format: str
    thoughts: Counter[str] = field(default_factory=Counter)
    contexts: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    partial: Counter[str] = field(default_factory=Counter)
    row_flags: Counter[str] = field(default_factory=Counter)
    blank_systems: int = 0
    as_input: int = 0
    hermes: int = 0
    listed: int = 0
    nulls: int = 0
    misfits: int = 0
    newlines: int = 0

    def add(self, row: Mapping[str, Any], found: Found, known: frozenset[str]) -> None:
        """Count one row's columns and the findings in its turns."""
        self.thoughts.update(found.thoughts)
        self.ignored.update(found.ignored)
        self.partial.update(key for key in found.unused if key.rpartition(".")[2] in PARTIAL)
        others = [key for key in row if key not in known]
        self.contexts.update(key for key in others if key in CONTEXTS and _has_text(row[key]))
        self.row_flags.update(key for key in others if key in FLAGS and row[key] in (False, 0))
        self.blank_systems += found.blank_system
        self.as_input += found.as_input

    def merge(self, other: Losses) -> None:
        """Add the counts over the file's next rows."""
        for one in fields(self):
            value = getattr(other, one.name)
            if isinstance(value, Counter):
                getattr(self, one.name).update(value)
            elif isinstance(value, int):
                setattr(self, one.name, getattr(self, one.name) + value)

    @property
    def named(self) -> frozenset[str]:
        return frozenset().union(self.contexts, self.partial, self.row_flags)

    def notes(self) -> Iterator[str]:
        if self.format == "preference":
            yield PAIRS
        if self.thoughts and self.format == "text":
            yield f"{_counted(self.thoughts)}: reasoning is not trained in this format, include it in 'text'"
        if self.misfits:
            yield f"{counted(self.misfits, 'row')} dropped: their calls do not match the tools (data.tool_faults drop)"
        if self.contexts:
            place = PLACES.get(self.format, "the user's turn")
            yield (
                f"the columns {_counted(self.contexts)} are not used: the model learns to answer without their text;"
                f" if the questions need it, put it into {place}"
            )
        if self.partial:
            yield f"{_counted(self.partial)}: parts of a turn can't be masked, the whole turn is trained"
        if self.row_flags:
            yield (
                f"the columns {_counted(self.row_flags)} exclude rows from training, but are not used: remove those"
                " rows, or set the flag on the turns"
            )

    def remarks(self) -> Iterator[str]:
        """Yield remarks on what was done."""
        if self.thoughts and self.format != "text":
            yield f"{_counted(self.thoughts)}: reasoning is passed to the chat template"
        if self.ignored:
            yield f"{_counted(self.ignored)} on turns that are not the assistant's: ignored, only responses are trained"
        if self.blank_systems:
            yield f"empty system turns were dropped ({counted(self.blank_systems, 'row')})"
        if self.as_input:
            yield f"the column 'context' was read as 'input' ({counted(self.as_input, 'row')})"
        if self.hermes:
            yield f"tool calls and results in tags were parsed ({counted(self.hermes, 'row')})"
        if self.listed:
            yield (
                f"tool lists were removed from system texts ({counted(self.listed, 'row')}): the chat template writes"
                " the definitions"
            )
        if self.nulls:
            yield (
                f"nulls that the tools' schemas do not allow were removed from definitions and arguments"
                f" ({counted(self.nulls, 'row')}): table formats fill absent keys with null"
            )
        if self.newlines:
            yield f"CR LF and CR became LF ({counted(self.newlines, 'row')}; data.newlines lf)"


def _has_text(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, (list, dict)) and bool(value)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({counted(count, 'row')})" for name, count in counts.items())
