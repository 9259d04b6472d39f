"""The gate's thresholds: defaults, and which of a record's are looser, as displayed with verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

# defaults by their names in records and settings
DEFAULTS: dict[str, float] = {"max_kl": 0.1, "min_top1": 0.88, "max_gain_lost": 0.2, "min_gain": 0.05}


class Gate(Protocol):
    """The gate's thresholds, from settings or a record."""

    @property
    def max_kl(self) -> float: ...
    @property
    def min_top1(self) -> float: ...
    @property
    def max_gain_lost(self) -> float: ...
    @property
    def min_gain(self) -> float: ...


@dataclass(frozen=True)
class Thresholds:
    """The gate thresholds that a record was judged by."""

    max_kl: float
    min_top1: float
    max_gain_lost: float
    min_gain: float

    @staticmethod
    def of(gate: Mapping[str, float]) -> Thresholds:
        """Return a record's thresholds, with defaults for any that an older record lacks."""
        return Thresholds(**{name: gate.get(name, default) for name, default in DEFAULTS.items()})


def looser(gate: Mapping[str, float]) -> list[str]:
    """Return each threshold that is looser than its default, as "max_kl 1000 (default 0.1)".

    `min_top1` is looser if lower, the others if higher (below `min_gain` a lost gain is not judged).
    """
    return [
        f"{name} {gate[name]:g} (default {default:g})"
        for name, default in DEFAULTS.items()
        if name in gate and (gate[name] < default if name == "min_top1" else gate[name] > default)
    ]


def qualified(gate: Mapping[str, float]) -> str:
    """Return the note for verdicts under looser thresholds; empty if none is looser."""
    found = looser(gate)
    return f"judged with looser thresholds than the defaults: {', '.join(found)}" if found else ""
