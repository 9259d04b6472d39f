"""How one family of models writes tool calls."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from .events import Reading
from .source import Source

# the names of the tools, where only they make a text a call; None: any name
Names = Set[str] | None


@dataclass(frozen=True)
class Dialect:
    """What calls look like in text.

    `begins` are the markers of a call or a list of calls, anywhere in an answer; `opens` are the characters by which an
    answer may be a call as a whole, if its name is a tool's. `calls` reads on after the marker, its second argument, or
    from the opening character, with "". `ends` are end tokens after calls that are not an answer's own. `markers` are
    tokens of their own in such models, and have to be in the text that is read. `sign` is in every call, where two
    dialects could read the same text. `whole` reads an answer with its thoughts, where the dialect has its own.
    """

    name: str
    begins: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    calls: Callable[[Source, str, Names], Reading[None]] | None = None
    ends: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    sign: str = ""
    whole: Callable[[Source, Names], Reading[None]] | None = None
