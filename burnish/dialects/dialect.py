"""How one family of models writes tool calls."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from .events import Reading
from .source import Source

# the tools' names, if only they may be called; None: any name
Names = Set[str] | None


@dataclass(frozen=True)
class Dialect:
    """The form of calls in text.

    `begins` are the markers of a call or a list of calls, anywhere in an answer. `opens` are the characters with which
    an answer starts that is completely a call, if its name is a tool's. `calls` continues reading after the marker (its
    second argument) or, with "", from the opening character. `ends` are end tokens that occur only after calls.
    `markers` are single tokens in such models, and must be in the text that is read. `sign` is in every call; it
    distinguishes dialects that could read the same text. `whole` reads an answer including reasoning, if the dialect
    has its own form of it.
    """

    name: str
    begins: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    calls: Callable[[Source, str, Names], Reading[None]] | None = None
    ends: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    sign: str = ""
    whole: Callable[[Source, Names], Reading[None]] | None = None
