"""End the reasoning of an answer after a number of tokens; combines with any other constraint."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from enum import Enum

import numpy as np

from .constraint import Constraint, Mask

MAX_CHARACTER = 4  # bytes in UTF-8


class _State(Enum):
    BEFORE = "before"  # the answer may still begin with a thought
    THINKING = "thinking"
    CLOSING = "closing"
    AFTER = "after"


@dataclass(frozen=True)
class ThoughtBudget:
    """A token budget for reasoning, and its markers as bytes; `closing` are the tokens of the end marker.

    `piece` returns a token's bytes, including control tokens; `n_vocab` is the number of tokens.
    """

    tokens: int
    begin: bytes
    end: bytes
    closing: Many[int]
    piece: Callable[[int], bytes]
    n_vocab: int

    def start(self, inner: Constraint, opened: bool) -> Constraint:
        """Return the constraint of a new sequence; `opened`: its prompt has opened the reasoning."""
        return _Limited(self, inner, opened)


class _Limited:
    def __init__(self, budget: ThoughtBudget, inner: Constraint, opened: bool) -> None:
        self._budget, self.inner = budget, inner
        self._state = _State.BEFORE
        self._said = b""  # the begin of the answer, or the last bytes of the thought
        self._count = self._closed = 0
        if opened:
            self._think(b"")

    def allowed(self) -> Mask | None:
        if self._state is not _State.CLOSING:
            return self.inner.allowed()
        mask = np.zeros(self._budget.n_vocab, dtype=np.bool_)
        mask[self._budget.closing[self._closed]] = True
        return mask

    def accept(self, token: int) -> None:
        self.inner.accept(token)
        self._advance(token)

    def forced(self, limit: int) -> list[int]:
        if self._state is not _State.CLOSING:
            tokens = self.inner.forced(limit)
        else:
            tokens = list(self._budget.closing[self._closed : self._closed + limit])
            for token in tokens:
                self.inner.accept(token)
        for token in tokens:
            self._advance(token)
        return tokens

    @property
    def finished(self) -> bool:
        return self.inner.finished

    def _advance(self, token: int) -> None:
        match self._state:
            case _State.BEFORE:
                self._said = (self._said + self._budget.piece(token)).lstrip()
                begin = self._budget.begin
                if self._said.startswith(begin):
                    self._think(self._said[len(begin) :])
                elif not begin.startswith(self._said):
                    self._state = _State.AFTER
            case _State.THINKING:
                self._count += 1
                self._think(self._said + self._budget.piece(token))
            case _State.CLOSING:
                self._closed += 1
                if self._closed == len(self._budget.closing):
                    self._state = _State.AFTER

    def _think(self, said: bytes) -> None:
        """Continue the reasoning, which ends in `said`, unless it has ended or its budget is used up."""
        end = self._budget.end
        if end in said:
            self._state = _State.AFTER
            return
        self._said = said[-max(len(end), MAX_CHARACTER) :]
        over = self._count - self._budget.tokens
        # an end marker inside a character violates any other constraint
        waits = over < 0 or (over < MAX_CHARACTER - 1 and _ends_inside_character(said))
        self._state = _State.THINKING if waits else _State.CLOSING


def _ends_inside_character(data: bytes) -> bool:
    """Return whether UTF-8 text lacks bytes of its last character."""
    for back, byte in enumerate(reversed(data[-MAX_CHARACTER + 1 :]), 1):
        if byte < 0x80:
            return False
        if byte >= 0xC0:
            return back < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2)
    return False
