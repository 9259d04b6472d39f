"""Find a vocabulary's special strings in a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Finder:
    """Finds a vocabulary's special strings in a text, in linear time."""

    strings: frozenset[str]

    @cached_property
    def _head(self) -> int:
        return min((len(string) for string in self.strings), default=0)

    @cached_property
    def _lengths(self) -> Mapping[str, tuple[int, ...]]:
        """The lengths of the strings by their head, longest first."""
        found: dict[str, set[int]] = {}
        for string in self.strings:
            found.setdefault(string[: self._head], set()).add(len(string))
        return {head: tuple(sorted(lengths, reverse=True)) for head, lengths in found.items()}

    @cached_property
    def _candidate(self) -> re.Pattern[str]:
        """A pattern for a string's first character, based on the possible characters at each position of the head."""
        first, *others = ({string[i] for string in self.strings} for i in range(self._head)) if self._head else [set()]
        return re.compile(_any_of(first).pattern + (f"(?={''.join(_any_of(o).pattern for o in others)})"))

    @cached_property
    def edges(self) -> frozenset[str]:
        """The first and last non-blank characters of the special strings."""
        return frozenset(c for string in self.strings for c in (string.strip()[0], string.strip()[-1]))

    @cached_property
    def edge(self) -> re.Pattern[str]:
        """A pattern that matches any of the edges."""
        return _any_of(self.edges)

    def prepare(self) -> None:
        """Precompile everything, so that the first use is not slower."""
        _ = self._lengths, self._candidate, self.edge

    def find(self, text: str, begin: int = 0) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, string) for special strings without overlaps, preferring the longest at each position.

        Searches from left to right, starting at `begin`.
        """
        last = begin
        for start, end, string in self.every(text, begin):
            if start >= last:
                last = end
                yield start, end, string

    def every(self, text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int, str]]:
        """Yield all special strings starting in [begin, end), even if they overlap; longest first at each position."""
        for match in self._candidate.finditer(text, begin):
            start = match.start()
            if end is not None and start >= end:
                return
            for length in self._lengths.get(text[start : start + self._head], ()):
                if (string := text[start : start + length]) in self.strings:
                    yield start, start + length, string


def _any_of(characters: Collection[str]) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(''.join(sorted(characters)))}]" if characters else r"(?!)")
