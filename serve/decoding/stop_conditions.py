"""When an answer ends: end tokens, stop strings, and the most tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StopConditions:
    """What ends one sequence.

    max_tokens: the most tokens to generate; context: the most tokens of prompt and answer; strings: texts that end the
    answer and are not part of it; end_tokens: ids that do.
    """

    max_tokens: int
    context: int
    strings: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()

    def tokens_left(self, prompt: int, total: int) -> int:
        """Return how many tokens may still be generated; `total` counts the prompt and the answer so far."""
        return min(self.max_tokens - (total - prompt), self.context - total)


class StopStrings:
    """Finds the first stop string in a growing text, and holds back what could be the beginning of one."""

    def __init__(self, strings: tuple[str, ...] = ()) -> None:
        self.strings = strings
        self.pending = ""  # text that is not released yet
        self.found = False

    def feed(self, text: str) -> str:
        """Take new text; return the text that is certain now; after a stop string was found it is empty."""
        if self.found:
            return ""
        self.pending += text
        return self._release(len(self.pending) if self._cut() else len(self.pending) - self._longest_start())

    def finish(self) -> str:
        """Return what was held back, once no more text comes."""
        self._cut()
        return self._release(len(self.pending))

    def _cut(self) -> bool:
        """Drop the first stop string and what follows it, if there is one."""
        if not self.found:
            places = [at for string in self.strings if (at := self.pending.find(string)) >= 0]
            if places:
                self.pending, self.found = self.pending[: min(places)], True
        return self.found

    def _longest_start(self) -> int:
        return max((_overlap(self.pending, string) for string in self.strings), default=0)

    def _release(self, count: int) -> str:
        text, self.pending = self.pending[:count], self.pending[count:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` could be the beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
