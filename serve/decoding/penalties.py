"""One sequence's penalties and biases, applied only to the affected logits, in llama.cpp's order and in float32."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .row import Floats, Ids


class Counts:
    """Token counts over all tokens or the last `window` (at least 1)."""

    def __init__(self, window: int | None = None) -> None:
        self._recent: deque[int] | None = None if window is None else deque()
        self._window = window or 0
        self._place: dict[int, int] = {}  # index of each token in the arrays
        self._ids: Ids = np.zeros(64, np.intp)
        self._counts: Floats = np.zeros(64, np.float32)

    def add(self, token: int) -> None:
        """Count a token, and drop the oldest if the window is full."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[place] = token
        self._counts[place] += 1
        if self._recent is not None:
            self._recent.append(token)
            if len(self._recent) > self._window:
                self._counts[self._place[self._recent.popleft()]] -= 1

    def present(self) -> tuple[Ids, Floats]:
        """Return the tokens and their counts."""
        used = len(self._place)
        ids, counts = self._ids[:used], self._counts[:used]
        if self._recent is None:
            return ids, counts
        there = counts > 0
        return ids[there], counts[there]


@dataclass
class Penalties:
    """The bias and penalties of a sequence, and the token counts they depend on.

    Logits of tokens in prompt or output (`repeated`) are divided by `repeat` if positive, otherwise multiplied by it.
    Logits of tokens in the output (`answered`) are reduced by `presence`, and by `frequency` times their count.
    """

    bias: Mapping[int, float] = field(default_factory=dict)
    repeat: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    repeated: Counts | None = None
    answered: Counts | None = None

    def __post_init__(self) -> None:
        self._biased = np.fromiter(self.bias.keys(), np.intp, len(self.bias))
        self._biases = np.fromiter(self.bias.values(), np.float32, len(self.bias))
        self.active = bool(self.bias) or self.repeated is not None or self.answered is not None

    def add(self, token: int) -> None:
        """Count an output token."""
        for counts in (self.repeated, self.answered):
            if counts is not None:
                counts.add(token)

    def apply(self, logits: Floats) -> list[tuple[Ids, Floats]]:
        """Modify the logits in place; return the data for `undo`."""
        undone: list[tuple[Ids, Floats]] = []
        if len(self._biased):
            undone.append((self._biased, before := logits[self._biased]))
            logits[self._biased] = before + self._biases
        if self.repeated is not None:
            ids, _ = self.repeated.present()
            undone.append((ids, before := logits[ids]))
            factor = np.float32(self.repeat)
            with np.errstate(all="ignore"):  # an extreme factor overflows; the sampler then reports the logits
                logits[ids] = np.where(before <= 0, before * factor, before / factor)
        if self.answered is not None:
            ids, counts = self.answered.present()
            undone.append((ids, before := logits[ids]))
            logits[ids] = before - (counts * np.float32(self.frequency) + np.float32(self.presence))
        return undone


def undo(logits: Floats, undone: Iterable[tuple[Ids, Floats]]) -> None:
    """Restore the logits that `Penalties.apply` modified."""
    for ids, before in reversed(list(undone)):
        logits[ids] = before
