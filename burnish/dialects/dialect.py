"""The tool-call format of a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from .events import Reading
from .source import Source

# the tools by name, with their parameters where dialects need types; None: any name is a call
Names = Mapping[str, Any] | Set[str] | None


@dataclass(frozen=True)
class Dialect:
    """The text format of calls.

    `begins` are the markers that start a call or a list of calls anywhere in an answer. `opens` are the characters that
    start an answer consisting only of calls to known tools. `calls` continues reading after the marker (its second
    argument) or, with "", from the opening character. `ends` are end tokens that occur only after calls. `markers` are
    single tokens in such models, and must be present in the parsed text. `sign` occurs in every call and distinguishes
    dialects that could read the same text. `whole` reads an answer including reasoning, if the dialect has its own
    reasoning format.
    """

    name: str
    begins: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    calls: Callable[[Source, str, Names], Reading[None]] | None = None
    ends: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    sign: str = ""
    whole: Callable[[Source, Names], Reading[None]] | None = None
