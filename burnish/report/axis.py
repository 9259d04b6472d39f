"""A chart axis: range, value positions, round ticks, and number formatting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TICKS_WANTED = 5


@dataclass(frozen=True)
class Axis:
    """An axis: its label with the unit, its range, and whether it is logarithmic (base 10)."""

    label: str
    low: float
    high: float
    log: bool = False

    @staticmethod
    def over(label: str, values: Sequence[float], zero: bool = False, log: bool = False) -> Axis:
        """Return an axis over finite values, starting at 0 with `zero`. On a log axis the values must be above 0."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if log:
            return Axis(label, 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9), True)
        if zero or (low >= 0 and low < 0.3 * high):
            low = 0.0
        if high <= low:
            high = low + (abs(low) or 1.0)
        return Axis(label, low, high + 0.04 * (high - low))

    def share(self, value: float) -> float:
        """Return a value's position: 0 at the low end, 1 at the high end."""
        if self.log:
            return math.log10(value / self.low) / math.log10(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values within the range: steps of 1, 2 or 5 times a power of ten, or powers of ten."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**e for e in range(first, last + 1, max(1, (last - first) // TICKS_WANTED))]
        rough = (self.high - self.low) / TICKS_WANTED
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Format a value for an axis: 0.25, 1,500, 3e-4."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.4g}"
