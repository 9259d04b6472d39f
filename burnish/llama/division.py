"""Split long texts at special tokens, where llama.cpp also splits them, so that the ids stay the same.

llama.cpp's search (tokenizer_st_partition in llama-vocab.cpp) walks a linked list from the start for every special
token found: 80,000 copies of "<|im_end|>" took 86 s. With bounded-length pieces the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..tokenizers.finder import Finder

PIECE = 4096  # minimum characters between cuts
# C's isspace set, which llama.cpp strips
BLANKS = " \t\n\v\f\r"
BLANK_RUN = re.compile(f"[{BLANKS}]*")


@dataclass(frozen=True)
class Divider:
    """Cuts texts right after special tokens. `specials` maps each string to whether it strips following whitespace."""

    specials: Mapping[str, bool]

    @cached_property
    def _finder(self) -> Finder:
        return Finder(frozenset(s for s in self.specials if s))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.specials), default=0)

    @cached_property
    def usable(self) -> bool:
        """Whether there are special tokens and all are valid UTF-8, so that they can be compared as text."""
        return bool(self._finder.strings) and not any("\ufffd" in string for string in self.specials)

    def prepare(self) -> None:
        """Precompute everything needed for long texts, so that the first one is not slower."""
        _ = self.usable, self._longest
        self._finder.prepare()

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the text in pieces whose concatenated ids equal the ids of the whole text."""
        start = 0
        while len(text) - start > PIECE and (cut := self._cut(text, start + PIECE)):
            end, following = cut
            yield text[start:end]
            start = following
        if start < len(text) or not start:
            yield text[start:]

    def _cut(self, text: str, near: int) -> tuple[int, int] | None:
        """Return the end of one piece and the start of the next: the first safe cut after `near`."""
        for start, end, string in self._finder.find(text, near):
            if string[0] in BLANKS or string[-1] in BLANKS:
                continue
            blanks = BLANK_RUN.match(text, end) if self.specials[string] else None
            following = blanks.end() if blanks else end
            if not self._disturbed(text, start, end, following):
                return end, following
        return None

    def _disturbed(self, text: str, start: int, end: int, following: int) -> bool:
        """Return whether another special string crosses a boundary of the one at [start, end) or lies in the whitespace
        stripped after it: llama.cpp, which searches for the longest first, may then cut elsewhere."""
        others = self._finder.every(text, max(0, start - self._longest), following)
        return any(stop > start and (begin < start or stop > end) for begin, stop, _ in others)
