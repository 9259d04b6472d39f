"""From token bytes to text that may be shown: whole UTF-8 characters, nothing of a stop string."""

from __future__ import annotations

import codecs

from .sequence import TokenLogprob


class Output:
    """The text of one sequence as it grows. `stops` end it; neither they nor what follows is ever given out."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""  # decoded, but perhaps the beginning of a stop string
        self._given = 0  # characters given out
        self._logprobs: list[tuple[int, TokenLogprob]] = []  # with the character at which the token begins
        self.stopped = False

    def feed(self, data: bytes, logprob: TokenLogprob | None = None) -> tuple[str, list[TokenLogprob]]:
        """Take one token's bytes; return the text that is now certain, and the log-probabilities of its tokens."""
        decoded = self._decoder.decode(data)
        if logprob is None and not self._stops:  # nothing can be held back: most tokens take this short way
            return decoded, []
        if logprob is not None:
            self._logprobs.append((self._given + len(self._held), logprob))
        self._held += decoded
        return self._give(self._certain())

    def finish(self) -> tuple[str, list[TokenLogprob]]:
        """Return what was held back, once no more tokens come."""
        if self.stopped:
            return "", []
        self._held += self._decoder.decode(b"", final=True)
        text, logprobs = self._give(self._certain() if self._cut() else len(self._held))
        logprobs += [logprob for _, logprob in self._logprobs] if not self.stopped else []
        self._logprobs = []
        return text, logprobs

    def _certain(self) -> int:
        """How many held characters can be given out."""
        if self._cut():
            return len(self._held)
        longest = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        return len(self._held) - longest

    def _cut(self) -> bool:
        """End the text at the first stop string in it, if there is one."""
        if not self.stopped:
            found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
            if found:
                self._held, self.stopped = self._held[: min(found)], True
        return self.stopped

    def _give(self, count: int) -> tuple[str, list[TokenLogprob]]:
        text, self._held = self._held[:count], self._held[count:]
        self._given += count
        ready = [logprob for begin, logprob in self._logprobs if begin < self._given]
        self._logprobs = [pair for pair in self._logprobs if pair[0] >= self._given]
        return text, ready


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` could be the beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
