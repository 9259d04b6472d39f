"""Converts token bytes to text: complete UTF-8 characters, without stop strings, with token log-probabilities."""

from __future__ import annotations

import codecs

from ..decoding.stop_conditions import StopStrings
from .events import TokenLogprob


class Detokenizer:
    """One sequence's growing text. A stop string ends the text; the string and what follows are not returned."""

    def __init__(self, stop_strings: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = StopStrings(stop_strings)
        self._released = 0  # characters returned so far
        self._logprobs: list[tuple[int, TokenLogprob]] = []  # with the character offset where the token begins

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stop.found

    def feed(self, data: bytes, logprob: TokenLogprob | None = None) -> tuple[str, list[TokenLogprob]]:
        """Add one token's bytes; return the text that can now be sent, and the log-probabilities of its tokens."""
        decoded = self._decoder.decode(data)
        if logprob is None and not self._stop.strings:  # nothing to hold back: the fast path for most tokens
            return decoded, []
        if logprob is not None:
            self._logprobs.append((self._released + len(self._stop.pending), logprob))
        return self._release(self._stop.feed(decoded))

    def finish(self) -> tuple[str, list[TokenLogprob]]:
        """Return the held-back text and log-probabilities after the last token."""
        if self.stopped:
            return "", []
        self._stop.pending += self._decoder.decode(b"", final=True)
        text, logprobs = self._release(self._stop.finish())
        logprobs += [logprob for _, logprob in self._logprobs] if not self.stopped else []
        self._logprobs = []
        return text, logprobs

    def _release(self, text: str) -> tuple[str, list[TokenLogprob]]:
        self._released += len(text)
        ready = [logprob for begin, logprob in self._logprobs if begin < self._released]
        self._logprobs = [pair for pair in self._logprobs if pair[0] >= self._released]
        return text, ready
