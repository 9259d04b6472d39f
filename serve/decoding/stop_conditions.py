"""When generation ends: end tokens, stop strings and token limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StopConditions:
    """The conditions that end a sequence.

    max_tokens: maximum generated tokens; context: maximum tokens of prompt and output together; strings: stop strings,
    which are not part of the output; end_tokens: token ids that end the sequence.
    """

    max_tokens: int
    context: int
    strings: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()

    def tokens_left(self, prompt: int, total: int) -> int:
        """Return how many tokens may still be generated; `total` counts prompt and output so far."""
        return min(self.max_tokens - (total - prompt), self.context - total)


class StopStrings:
    """Finds the first stop string in a growing text, and holds back text that could be the start of one."""

    def __init__(self, strings: tuple[str, ...] = ()) -> None:
        self.strings = strings
        self.pending = ""  # text held back
        self.found = False

    def feed(self, text: str) -> str:
        """Add new text; return the text that can be released, or "" once a stop string has been found."""
        if self.found:
            return ""
        self.pending += text
        return self._release(len(self.pending) if self._cut() else len(self.pending) - self._longest_start())

    def finish(self) -> str:
        """Return the held-back text once there is no more input."""
        self._cut()
        return self._release(len(self.pending))

    def _cut(self) -> bool:
        """Remove the first stop string, if any, and everything after it; return whether one was found."""
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
    """Return how many characters at the end of `text` could be the start of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
