"""What an assistant's text says: content, thoughts and calls, as a whole and piece by piece."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Call:
    """A tool call: the tool's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str

    def value(self) -> Any:
        """Return the arguments as Python values."""
        return json.loads(self.arguments)


@dataclass(frozen=True)
class Parsed:
    """A whole assistant's text. A call that can't be parsed is content, as it was written."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Content:
    """New text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """New text of the thought before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins: its name is known."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """New text of the begun call's arguments: the pieces together are the text of a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The begun call is complete."""


@dataclass(frozen=True, slots=True)
class CallBroken:
    """What begun as a call is none; `raw` is its text as it was written, the marker before it included."""

    raw: str


Event: TypeAlias = Content | Thought | CallBegin | CallArguments | CallEnd | CallBroken
# readers are generators: they yield what is certain, and None where they need more text than there is
Reading: TypeAlias = Generator[Event | None, None, Result]
Writing: TypeAlias = Generator[str | None, None, Result]
Waiting: TypeAlias = Generator[None, None, Result]


class BrokenCall(Exception):
    """The text is not what the dialect writes here."""


def collect(events: Iterable[Event]) -> Parsed:
    """Join events to the message that they describe."""
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
    """Join neighbouring texts of one kind, so that one feed gives one piece of each."""
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
