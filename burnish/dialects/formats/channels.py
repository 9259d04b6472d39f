"""gpt-oss: each part of an answer is a message in the analysis, commentary (calls) or final channel."""

from __future__ import annotations

import re

from .. import objects
from ..dialect import Dialect, Names
from ..events import CallBegin, CallEnd, Content, Reading, Thought, Waiting
from ..reader import attempt
from ..source import Source

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
ENDS = (END, CALL, RETURN)
_TO = re.compile(r"\bto=functions\.([^\s<]+)")
_ANALYSIS = re.compile(r"<\|channel\|>\s*analysis\b")
# a header contains a role, a recipient and a channel
LONGEST_HEADER = 512


def _answer(source: Source, names: Names) -> Reading[None]:
    """Read a complete answer. Text without a header is content through to the end."""
    before = yield from source.leading()
    while not (yield from source.ended()):
        first = yield from source.starts(CHANNEL, START, "assistant", "to=")
        header, found = yield from _header(source, first) if first else _none()
        if not found:
            yield Content(before + header)
            yield from _text(source, Content, ())
            return
        receiver = _TO.search(header)
        if receiver and names is not None and not names:  # no tools were offered
            yield Content(header + MESSAGE)
            receiver = None
        elif receiver:
            yield from attempt(source, _call(source, receiver.group(1)), header + MESSAGE)
        thinks = _ANALYSIS.search(header) and not receiver
        yield from _text(source, Thought if thinks else Content, ENDS)
        before = yield from source.leading()


def _none() -> Waiting[tuple[str, bool]]:
    yield from ()
    return "", False


def _header(source: Source, first: str) -> Waiting[tuple[str, bool]]:
    """Read a message header up to its end marker; return the header, and whether it ended within the limit."""
    parts, pieces = [first], source.until((MESSAGE,))
    while sum(map(len, parts)) <= LONGEST_HEADER:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return "".join(parts), bool(end.value)
        if piece is None:
            yield None
        else:
            parts.append(piece)
    return "".join(parts), False


def _call(source: Source, name: str) -> Reading[None]:
    yield CallBegin(name)
    yield from objects.arguments(source)
    yield CallEnd()
    yield from source.blanks()


def _text(source: Source, kind: type[Content] | type[Thought], ends: tuple[str, ...]) -> Reading[None]:
    for piece in source.until(ends):
        yield None if piece is None else kind(piece)


CHANNELS = Dialect("channels", ends=(CALL, RETURN), markers=(START, CHANNEL, CONSTRAIN, MESSAGE, *ENDS), whole=_answer)
