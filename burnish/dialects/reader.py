"""Parse assistant text, with the same result whether it arrives complete or in pieces."""

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
    """Parses one answer incrementally: accepts text in pieces and returns each event as soon as it is certain.

    Without `dialect` no calls are parsed, without `thoughts` no reasoning. `opened`: the prompt has opened the
    reasoning. `names` are the tool names: in a dialect without markers only calls to these are recognised. A call that
    turns out invalid after its start becomes CallBroken.
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
        """Add text; return the events that are now certain. `final`: no more text follows."""
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
    """Parse a complete text; see Parser."""
    return collect(Parser(dialect, thoughts, opened, names).feed(text, final=True))


def answer(
    source: Source, dialect: Dialect | None, thoughts: Thoughts | None, opened: bool, names: Names
) -> Reading[None]:
    """Read a complete answer: reasoning, then content and calls."""
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
    """Read content and calls. `kept` is the preceding whitespace."""
    begins = dialect.begins if dialect else ()
    called = False
    if dialect and dialect.calls and (yield from source.peek()) in dialect.opens:
        called = yield from attempt(source, dialect.calls(source, "", names), kept.take())
    while True:
        marker = yield from texts(source, begins, Content, kept)
        if not marker:
            break
        assert dialect and dialect.calls  # the marker came from this dialect
        before = kept.take()
        called = (yield from attempt(source, dialect.calls(source, marker, names), before + marker)) or called
    rest = kept.take()
    if rest and not called:
        yield Content(rest)


def attempt(source: Source, calls: Reading[None], before: str) -> Reading[bool]:
    """Read calls; return whether there were any. An invalid call becomes content, together with `before`."""
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
