"""Parsers from generated text to the fields of a reply, incrementally: content, reasoning and tool calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Protocol

from burnish.dialects.events import CallArguments, CallBegin, CallBroken, CallEnd, Content, Event, Thought
from burnish.dialects.find import Found
from burnish.dialects.reader import Parser
from burnish.dialects.thoughts import Thoughts

from .schema import ChatRequest, CompletionRequest

# tokens at the end of a prompt that show whether it opens the reasoning
TAIL_TOKENS = 16


@dataclass(slots=True)
class CallDelta:
    """A call, or new text of its arguments: then `id` and `name` are empty."""

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""


@dataclass(slots=True)
class ParsedDelta:
    """The additions to the reply from new text. `content`: text of the answer, "" while it is undecided."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class OutputParser(Protocol):
    """The parser state of one choice. Feeding the whole text at once gives the same as feeding it in pieces."""

    @property
    def called(self) -> bool:
        """Whether the choice has calls so far."""

    @property
    def reasoned(self) -> int | None:
        """Characters of reasoning so far; None: the model's answers have none."""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        """Take new text; return what is now decided. With `final`, no text follows and everything is returned."""


class PlainText:
    """Returns the text unchanged."""

    called = False
    reasoned = None

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        return ParsedDelta(text)


class DialectText:
    """Parses calls and reasoning with the same parser as training.

    `streamed`: text is sent as soon as it is decided; a call that then turns out to be malformed stays incomplete.
    Otherwise everything is returned at the end, and such a call is content. Without `parallel`, calls after the first
    are left out. `reasons`: answers may have reasoning.
    """

    def __init__(self, parser: Parser, streamed: bool, parallel: bool, reasons: bool) -> None:
        self.called = False
        self.reasoned = 0 if reasons else None
        self._whole = ParsedDelta()
        self._parser, self._streamed, self._parallel = parser, streamed, parallel
        self._index = -1  # of the current call
        self._complete = 0  # calls

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        found = ParsedDelta() if self._streamed else self._whole
        for event in self._parser.feed(text, final):
            self._add(event, found)
        return found if self._streamed or final else ParsedDelta()

    def _add(self, event: Event, found: ParsedDelta) -> None:
        match event:
            case Content(text):
                found.content += text
            case Thought(text):
                found.reasoning += text
                self.reasoned = (self.reasoned or 0) + len(text)
            case CallBroken(raw) if not self._streamed:
                found.calls = [call for call in found.calls if call.index != self._index]
                found.content += raw
                self._index -= 1
                self.called = self._index >= 0
            case CallBegin(name):
                self._index += 1
                self.called = True
                if self._wanted:
                    found.calls.append(CallDelta(self._index, id=f"call_{uuid.uuid4().hex[:24]}", name=name))
            case CallArguments(text) if self._wanted:
                if found.calls and found.calls[-1].index == self._index:
                    found.calls[-1].arguments += text
                else:
                    found.calls.append(CallDelta(self._index, text))
            case CallBroken(raw) if not self._wanted:  # nothing of it was sent
                found.content += raw
            case CallEnd():
                self._complete += 1
            case CallArguments() | CallBroken():
                pass

    @property
    def _wanted(self) -> bool:
        return self._parallel or not self._complete


# makes the parser of one choice of a request, given its prompt
ParserFactory = Callable[[ChatRequest | CompletionRequest, Many[int]], OutputParser]


def plain_text(request: ChatRequest | CompletionRequest, prompt: Many[int]) -> OutputParser:
    """Create the parser of one choice of a request."""
    return PlainText()


def opens_thought(thoughts: Thoughts | None, prompt: Many[int], piece: Callable[[int], bytes]) -> bool:
    """Return whether a prompt ends inside a thought, which the answer then continues."""
    tail = b"".join(piece(token) for token in prompt[-TAIL_TOKENS:]).decode("utf-8", "replace")
    return thoughts is not None and thoughts.open_in(tail)


def dialect_parsers(found: Found, piece: Callable[[int], bytes]) -> ParserFactory:
    """Return a factory for parsers of these formats of calls and reasoning."""

    def create(request: ChatRequest | CompletionRequest, prompt: Many[int]) -> OutputParser:
        if not isinstance(request, ChatRequest):
            return PlainText()
        tools, thoughts = request.offered, found.thoughts
        dialect = found.dialect if tools or (found.dialect and found.dialect.whole) else None
        if dialect is None and thoughts is None:
            return PlainText()
        names = {tool.function.name: tool.function.parameters for tool in tools}
        parser = Parser(dialect, thoughts, opens_thought(thoughts, prompt, piece), names)
        parallel = request.parallel_tool_calls is not False
        return DialectText(parser, bool(request.stream), parallel, reasons=thoughts is not None)

    return create
