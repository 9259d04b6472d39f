"""Long texts are divided at special tokens, where llama.cpp itself divides them, so that the ids stay the same.

Its own search (tokenizer_st_partition in llama-vocab.cpp) walks a linked list from the start for every special token
that it finds: 80,000 times "<|im_end|>" took 86 s. In pieces of bounded length the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..tokenizers.finder import Finder

PIECE = 4096  # characters after which a place to cut is looked for
# what C's isspace takes for a blank, with which llama.cpp strips
BLANKS = " \t\n\v\f\r"
BLANK_RUN = re.compile(f"[{BLANKS}]*")


@dataclass(frozen=True)
class Divider:
    """Cuts texts right after special tokens. `specials` has of each string whether it strips the blanks after it."""

    specials: Mapping[str, bool]

    @cached_property
    def _finder(self) -> Finder:
        return Finder(frozenset(s for s in self.specials if s))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.specials), default=0)

    @cached_property
    def usable(self) -> bool:
        """Whether strings can be compared as text: a token that is not UTF-8 can't."""
        return bool(self._finder.strings) and not any("\ufffd" in string for string in self.specials)

    def prepare(self) -> None:
        """Compute now what is otherwise computed with the first long text."""
        _ = self.usable, self._longest
        self._finder.prepare()

    def pieces(self, text: str) -> Iterator[str]:
        """Yield the text in pieces whose ids, one after another, are those of the whole."""
        start = 0
        while len(text) - start > PIECE and (cut := self._cut(text, start + PIECE)):
            end, following = cut
            yield text[start:end]
            start = following
        if start < len(text) or not start:
            yield text[start:]

    def _cut(self, text: str, near: int) -> tuple[int, int] | None:
        """Return where a piece ends and where the next begins: the first place after `near` that is safe."""
        for start, end, string in self._finder.find(text, near):
            if string[0] in BLANKS or string[-1] in BLANKS:
                continue
            blanks = BLANK_RUN.match(text, end) if self.specials[string] else None
            following = blanks.end() if blanks else end
            if not self._disturbed(text, start, end, following):
                return end, following
        return None

    def _disturbed(self, text: str, start: int, end: int, following: int) -> bool:
        """Whether another special string reaches across a border of the one at [start, end), or lies in the blanks that
        it strips: llama.cpp, which looks for the longest first, may then cut otherwise."""
        others = self._finder.every(text, max(0, start - self._longest), following)
        return any(stop > start and (begin < start or stop > end) for begin, stop, _ in others)
