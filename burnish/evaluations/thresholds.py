"""Thresholds on an evaluation's score, as written in a training config: ">= 0.8"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_FORM = re.compile(r"\s*(>=|<=|>|<)\s*(\d*\.?\d+)\s*(%?)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
# scores are means of many numbers: 0.8 must reach ">= 0.8"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Threshold:
    """A comparison with a number from 0 to 1."""

    sign: str
    value: float

    def holds(self, score: float) -> bool:
        """Return whether a score satisfies the threshold."""
        if self.sign in (">=", "<=") and abs(score - self.value) <= ROUNDING:
            return True
        return _COMPARE[self.sign](score, self.value)

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


def parse_threshold(text: str) -> Threshold:
    """Return the threshold. Raises ValueError with what is expected."""
    found = _FORM.fullmatch(text)
    value = float(found[2]) / (100 if found[3] else 1) if found else -1.0
    if found is None or not 0 <= value <= 1:
        raise ValueError(f"'{text}': expected a comparison with a number from 0 to 1, such as '>= 0.8'")
    return Threshold(found[1], value)
