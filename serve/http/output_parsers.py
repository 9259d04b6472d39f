"""From the text of an answer to what the client gets of it, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .schema import ChatRequest, CompletionRequest


@dataclass(slots=True)
class ParsedDelta:
    """What new text means to the client. `content`: text of the answer itself; "" where none of it is certain yet."""

    content: str = ""


class OutputParser(Protocol):
    """The state of one answer. The whole answer in one call gives the same as its pieces one after another."""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        """Take new text; return what is certain now. `final`: no text follows, so that everything is."""


class PlainText:
    """The text itself."""

    def feed(self, text: str, final: bool = False) -> ParsedDelta:
        return ParsedDelta(text)


ParserFactory = Callable[[ChatRequest | CompletionRequest], OutputParser]


def plain_text(request: ChatRequest | CompletionRequest) -> OutputParser:
    """Make the parser of one answer to a request."""
    return PlainText()
