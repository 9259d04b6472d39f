"""Text that arrives in pieces, with the operations that readers need.

An operation returns only when no further text could change its result, so the chunking does not matter. Every
character is examined a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .events import BrokenCall, Waiting, Writing

BLANKS = re.compile(r"[ \t\r\n]*")
# maximum characters in a word (a name or a number)
LONGEST_WORD = 256


class Source:
    """A position in the text received so far."""

    def __init__(self) -> None:
        self._text, self._at = "", 0
        self._received, self._final = 0, False
        self._raw: list[str] = []
        self._raw_from = 0

    def add(self, text: str, final: bool = False) -> None:
        """Add text. `final`: no more text follows."""
        self._final = final
        if not text:  # waiting operations still hold positions, and have nothing new to examine
            return
        self._raw.append(self._text[self._raw_from : self._at])
        self._text = self._text[self._at :] + text
        self._at = self._raw_from = 0
        self._received += len(text)

    def record(self) -> None:
        """Start recording the text being read."""
        self._raw, self._raw_from = [], self._at

    def raw(self) -> str:
        """Return the text read since `record`."""
        return "".join(self._raw) + self._text[self._raw_from : self._at]

    def ended(self) -> Waiting[bool]:
        """Return whether all text has been read."""
        while self._at == len(self._text):
            if not (yield from self._more()):
                return True
        return False

    def starts(self, *markers: str) -> Waiting[str]:
        """Read and return the longest matching marker at this position; "" if there is none."""
        while any(self._may_start(marker) for marker in markers):
            if not (yield from self._more()):
                break
        found = max((m for m in markers if self._text.startswith(m, self._at)), key=len, default="")
        self._at += len(found)
        return found

    def expect(self, *markers: str) -> Waiting[str]:
        """Read one of the markers. Raises BrokenCall if none matches at this position."""
        found = yield from self.starts(*markers)
        if not found:
            raise BrokenCall
        return found

    def peek(self) -> Waiting[str]:
        """Return the next character without reading it; "" at the end."""
        return "" if (yield from self.ended()) else self._text[self._at]

    def take(self, count: int) -> Waiting[str]:
        """Read `count` characters, or fewer at the end."""
        while len(self._text) - self._at < count:
            if not (yield from self._more()):
                break
        found = self._text[self._at : self._at + count]
        self._at += len(found)
        return found

    def blanks(self) -> Waiting[None]:
        while True:
            match = BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def leading(self) -> Waiting[str]:
        """Read and return whitespace."""
        found: list[str] = []
        for piece in self.run(BLANKS):
            if piece is None:
                yield None
            else:
                found.append(piece)
        return "".join(found)

    def word(self, characters: re.Pattern[str]) -> Waiting[str]:
        """Read all characters that match the pattern (a class with *). Raises BrokenCall if there are too many."""
        while True:
            match = characters.match(self._text, self._at)
            end = match.end() if match else self._at
            if end - self._at > LONGEST_WORD:
                raise BrokenCall
            if end < len(self._text) or not (yield from self._more()):
                break
        found = self._text[self._at : end]
        self._at = end
        return found

    def run(self, characters: re.Pattern[str]) -> Writing[None]:
        """Read and yield all characters that match the pattern, as they arrive."""
        while True:
            match = characters.match(self._text, self._at)
            if match and match.end() > self._at:
                self._at = match.end()
                yield match.group()
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def until(self, markers: Sequence[str]) -> Writing[str]:
        """Yield the text before the first marker, then read and return the marker; "" at the end.

        Only text that could be the start of a marker is held back.
        """
        pattern = _any_of(tuple(markers))
        while True:
            match = pattern.search(self._text, self._at)
            if match and (self._final or not self._longer(match.group(), match.start(), markers)):
                if match.start() > self._at:
                    yield self._text[self._at : match.start()]
                self._at = match.end()
                return match.group()
            kept = match.start() if match else len(self._text) - (0 if self._final else self._kept(markers))
            if kept > self._at:
                text, self._at = self._text[self._at : kept], kept
                yield text
            if not (yield from self._more()) and self._at >= len(self._text):
                return ""

    def _may_start(self, marker: str) -> bool:
        left = len(self._text) - self._at
        return left < len(marker) and marker.startswith(self._text[self._at :])

    def _longer(self, marker: str, start: int, markers: Sequence[str]) -> bool:
        """Return whether a longer marker could still match at `start`."""
        rest = self._text[start : start + max(map(len, markers))]
        return any(len(m) > len(marker) and len(rest) < len(m) and m.startswith(rest) for m in markers)

    def _kept(self, markers: Sequence[str]) -> int:
        """Return the number of trailing characters that could be the start of a marker."""
        most = min(max(map(len, markers), default=1) - 1, len(self._text) - self._at)
        tails = (self._text[len(self._text) - count :] for count in range(most, 0, -1))
        return next((len(tail) for tail in tails if any(m.startswith(tail) for m in markers)), 0)

    def _more(self) -> Waiting[bool]:
        """Wait for more text; return False at the end."""
        received = self._received
        while self._received == received:
            if self._final:
                return False
            yield None
        return True


@lru_cache(maxsize=256)
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
