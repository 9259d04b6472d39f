"""Content, reasoning and calls in assistant text, complete or as a stream of events."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Call:
    """A tool call: the tool's name, and the arguments as JSON object text."""

    name: str
    arguments: str

    def value(self) -> Any:
        """Return the arguments as Python values."""
        return json.loads(self.arguments)


@dataclass(frozen=True)
class Parsed:
    """Parsed assistant text. A call that can't be parsed becomes content, unchanged."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """New text in the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """New text in the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call starts; its name is known."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """New text in the current call's arguments; the concatenated pieces are a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The current call is complete."""


@dataclass(frozen=True, slots=True)
class CallBroken:
    """The current call turned out to be invalid; `raw` is the original text, including the preceding marker."""

    raw: str


Event: TypeAlias = Content | Thought | CallBegin | CallArguments | CallEnd | CallBroken
# readers are generators: they yield events as soon as they are certain, and None to request more text
Reading: TypeAlias = Generator[Event | None, None, Result]
Writing: TypeAlias = Generator[str | None, None, Result]
Waiting: TypeAlias = Generator[None, None, Result]


class BrokenCall(Exception):
    """The text does not match the dialect's format."""


def collect(events: Iterable[Event]) -> Parsed:
    """Combine events into a message."""
    contents: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    name, arguments = "", list[str]()
    for event in events:
        match event:
            case Content(text):
                contents.append(text)
            case Thought(text):
                thoughts.append(text)
            case CallBegin(name):
                arguments = []
            case CallArguments(text):
                arguments.append(text)
            case CallEnd():
                calls.append(Call(name, "".join(arguments)))
            case CallBroken(raw):
                contents.append(raw)
    return Parsed("".join(contents), "".join(thoughts), tuple(calls))


def merged(events: Iterable[Event]) -> list[Event]:
    """Join adjacent texts of the same kind."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        match last, event:
            case (Content(a), Content(b)):
                found[-1] = Content(a + b)
            case (Thought(a), Thought(b)):
                found[-1] = Thought(a + b)
            case (CallArguments(a), CallArguments(b)):
                found[-1] = CallArguments(a + b)
            case _:
                found.append(event)
    return found
