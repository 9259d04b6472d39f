"""Text that arrives in pieces, with the operations of readers.

An operation returns only when no further text could change its result, so the division into pieces makes no
difference. Every character is examined a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from .events import BrokenCall, Waiting, Writing

BLANKS = re.compile(r"[ \t\r\n]*")
# most characters of a word (a name or a number)
LONGEST_WORD = 256


class Source:
    """A position in the text received so far."""

    def __init__(self) -> None:
        self._text, self._at = "", 0
        self._received, self._final = 0, False
        self._raw: list[str] = []
        self._raw_from = 0

    def add(self, text: str, final: bool = False) -> None:
        """Add new text. `final`: none follows."""
        self._final = final
        if not text:  # an operation that waits still holds positions, and finds no reason to look again
            return
        self._raw.append(self._text[self._raw_from : self._at])
        self._text = self._text[self._at :] + text
        self._at = self._raw_from = 0
        self._received += len(text)

    def record(self) -> None:
        """Start recording the text that is read."""
        self._raw, self._raw_from = [], self._at

    def raw(self) -> str:
        """Return what was read since `record`."""
        return "".join(self._raw) + self._text[self._raw_from : self._at]

    def ended(self) -> Waiting[bool]:
        """Return whether no text is left."""
        while self._at == len(self._text):
            if not (yield from self._more()):
                return True
        return False

    def starts(self, *markers: str) -> Waiting[str]:
        """Read and return the longest of the markers at this position; "" if there is none."""
        while any(self._may_start(marker) for marker in markers):
            if not (yield from self._more()):
                break
        found = max((m for m in markers if self._text.startswith(m, self._at)), key=len, default="")
        self._at += len(found)
        return found

    def expect(self, *markers: str) -> Waiting[str]:
        """Read one of the markers. Raises BrokenCall if there is none at this position."""
        found = yield from self.starts(*markers)
        if not found:
            raise BrokenCall
        return found

    def peek(self) -> Waiting[str]:
        """Return the next character without reading it; "" at the end."""
        return "" if (yield from self.ended()) else self._text[self._at]

    def take(self, count: int) -> Waiting[str]:
        """Read `count` characters; fewer at the end."""
        while len(self._text) - self._at < count:
            if not (yield from self._more()):
                break
        found = self._text[self._at : self._at + count]
        self._at += len(found)
        return found

    def blanks(self) -> Waiting[None]:
        """Read blanks and line breaks."""
        while True:
            match = BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def leading(self) -> Waiting[str]:
        """Read and return blanks and line breaks."""
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
        """Yield the text before the first of the markers, read the marker and return it; "" at the end.

        Only the possible start of a marker is held back.
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
        """Return whether a longer marker is still possible at `start`."""
        rest = self._text[start : start + max(map(len, markers))]
        return any(len(m) > len(marker) and len(rest) < len(m) and m.startswith(rest) for m in markers)

    def _kept(self, markers: Sequence[str]) -> int:
        """Return how many characters at the end could be the start of a marker."""
        most = min(max(map(len, markers), default=1) - 1, len(self._text) - self._at)
        tails = (self._text[len(self._text) - count :] for count in range(most, 0, -1))
        return next((len(tail) for tail in tails if any(m.startswith(tail) for m in markers)), 0)

    def _more(self) -> Waiting[bool]:
        """Wait for text; return False if there is no more."""
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
