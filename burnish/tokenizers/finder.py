"""Find the special strings of a vocabulary in a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Finder:
    """Finds the special strings of a vocabulary in a text, in time linear in its length."""

    strings: frozenset[str]

    @cached_property
    def _head(self) -> int:
        return min((len(string) for string in self.strings), default=0)

    @cached_property
    def _lengths(self) -> Mapping[str, tuple[int, ...]]:
        """The lengths of the strings with the same head, longest first."""
        found: dict[str, set[int]] = {}
        for string in self.strings:
            found.setdefault(string[: self._head], set()).add(len(string))
        return {head: tuple(sorted(lengths, reverse=True)) for head, lengths in found.items()}

    @cached_property
    def _candidate(self) -> re.Pattern[str]:
        """A pattern for the first character of a string, by the possible characters at each place of its head."""
        first, *others = ({string[i] for string in self.strings} for i in range(self._head)) if self._head else [set()]
        return re.compile(_any_of(first).pattern + (f"(?={''.join(_any_of(o).pattern for o in others)})"))

    @cached_property
    def edges(self) -> frozenset[str]:
        """The first and last characters of special strings, except blanks."""
        return frozenset(c for string in self.strings for c in (string.strip()[0], string.strip()[-1]))

    @cached_property
    def edge(self) -> re.Pattern[str]:
        """A pattern for one of the edges."""
        return _any_of(self.edges)

    def prepare(self) -> None:
        """Compile everything that the first use would otherwise have to."""
        _ = self._lengths, self._candidate, self.edge

    def find(self, text: str, begin: int = 0) -> Iterator[tuple[int, int, str]]:
        """Yield start, end and string of the special strings from left to right, of several at one place the longest.

        The search starts at `begin`.
        """
        last = begin
        for start, end, string in self.every(text, begin):
            if start >= last:
                last = end
                yield start, end, string

    def every(self, text: str, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int, str]]:
        """Yield all special strings that start in [begin, end), also overlapping ones; at each place longest first."""
        for match in self._candidate.finditer(text, begin):
            start = match.start()
            if end is not None and start >= end:
                return
            for length in self._lengths.get(text[start : start + self._head], ()):
                if (string := text[start : start + length]) in self.strings:
                    yield start, start + length, string


def _any_of(characters: Collection[str]) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(''.join(sorted(characters)))}]" if characters else r"(?!)")
