"""Parsers from generated text to the fields of a reply, incrementally."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .schema import ChatRequest, CompletionRequest


@dataclass(slots=True)
class ParsedDelta:
    """What new text adds to the reply. `content`: text of the answer, "" while it is undecided."""

    content: str = ""


class OutputParser(Protocol):
    """The parser state of one choice. Feeding the whole text at once gives the same as feeding it in pieces."""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        """Take new text; return what is now decided. With `final`, no text follows and everything is returned."""


class PlainText:
    """Returns the text unchanged."""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        return ParsedDelta(text)


ParserFactory = Callable[[ChatRequest | CompletionRequest], OutputParser]


def plain_text(request: ChatRequest | CompletionRequest) -> OutputParser:
    """Create the parser of one choice of a request."""
    return PlainText()
