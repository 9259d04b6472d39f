"""From an assistant's text to what it says: the same whether it comes whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterable

from .dialect import Dialect, Names
from .events import (
    BrokenCall,
    CallBegin,
    CallBroken,
    CallEnd,
    Content,
    Event,
    Parsed,
    Reading,
    collect,
    merged,
)
from .source import Source
from .thoughts import Blanks, Thoughts, texts, thought


class Parser:
    """The state of one answer: takes its text in pieces and returns what is certain, nothing twice.

    `dialect` None reads no calls, `thoughts` None no thoughts; `opened`: the prompt has opened the thought. `names` are
    the tools'; a dialect without markers takes only these for calls. A call that breaks after it began is CallBroken.
    """

    def __init__(
        self,
        dialect: Dialect | None = None,
        thoughts: Thoughts | None = None,
        opened: bool = False,
        names: Names = None,
    ) -> None:
        self._source = Source()
        self._reading = answer(self._source, dialect, thoughts, opened, names)

    def feed(self, text: str, final: bool = False) -> list[Event]:
        """Take new text; return what it makes certain. `final`: no text follows."""
        self._source.add(text, final)
        return merged(self._certain())

    def _certain(self) -> Iterable[Event]:
        for event in self._reading:
            if event is None:
                return
            yield event


def parse(
    text: str,
    dialect: Dialect | None = None,
    thoughts: Thoughts | None = None,
    opened: bool = False,
    names: Names = None,
) -> Parsed:
    """Return what a whole text says; see Parser."""
    return collect(Parser(dialect, thoughts, opened, names).feed(text, final=True))


def answer(
    source: Source, dialect: Dialect | None, thoughts: Thoughts | None, opened: bool, names: Names
) -> Reading[None]:
    """Read a whole answer: its thought, then content and calls."""
    if dialect and dialect.whole:
        yield from dialect.whole(source, names)
        return
    kept = Blanks()
    if thoughts and opened:
        yield from thought(source, thoughts)
    elif thoughts or dialect:
        kept.add((yield from source.leading()))
        if thoughts and (yield from source.starts(thoughts.begin)):
            kept.take()
            yield from thought(source, thoughts)
    yield from _contents(source, dialect, names, kept)


def _contents(source: Source, dialect: Dialect | None, names: Names, kept: Blanks) -> Reading[None]:
    """Read content and calls. `kept` are the blanks before."""
    begins = dialect.begins if dialect else ()
    called = False
    if dialect and dialect.calls and (yield from source.peek()) in dialect.opens:
        called = yield from attempt(source, dialect.calls(source, "", names), kept.take())
    while True:
        marker = yield from texts(source, begins, Content, kept)
        if not marker:
            break
        assert dialect and dialect.calls  # it has the marker
        before = kept.take()
        called = (yield from attempt(source, dialect.calls(source, marker, names), before + marker)) or called
    rest = kept.take()
    if rest and not called:
        yield Content(rest)


def attempt(source: Source, calls: Reading[None], before: str) -> Reading[bool]:
    """Read calls; return whether there was one. What is none is content, with `before`, what stands before it."""
    begun = called = False
    source.record()
    try:
        for event in calls:
            yield event
            if isinstance(event, CallBegin):
                begun = True
            elif isinstance(event, CallEnd):
                begun, called, before = False, True, ""
                source.record()
    except BrokenCall:
        raw = before + source.raw()
        if begun:
            yield CallBroken(raw)
        elif raw:
            yield Content(raw)
    return called
