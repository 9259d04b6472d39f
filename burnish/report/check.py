"""Render the page of `make check`: what was read, the warnings, and rows with their trained part in colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from .chart import histogram
from .collect import lengths
from .template import rendered


@dataclass(frozen=True)
class Piece:
    """A part of a row's text: `style` are its CSS classes; `left`: it says what was left out."""

    text: str
    style: str = ""
    left: bool = False


@dataclass(frozen=True)
class ShownRow:
    """A row on the page: where it is from, its length in tokens, how many are trained, and why it is shown."""

    where: str
    tokens: int
    trained: int
    pieces: Sequence[Piece]
    heldout: bool = False
    why: str = ""


@dataclass(frozen=True)
class ShownWarning:
    """A warning, and the rows that it is about, as one text."""

    text: str
    rows: str = ""
    unit: str = "line"


@dataclass(frozen=True)
class CheckView:
    """What the page of `make check` shows."""

    title: str
    subtitle: str
    rows: str
    headline: str
    why: str
    tiles: Sequence[tuple[str, str]]
    sources: Sequence[dict[str, Any]]
    warnings: Sequence[ShownWarning]
    lengths: Markup
    lengths_note: str
    shares: Markup
    shares_note: str
    random: Sequence[ShownRow]
    extremes: Sequence[tuple[str, Sequence[ShownRow]]]
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)


def length_plot(tokens: Sequence[int]) -> Markup:
    """Draw how many rows have how many tokens."""
    found = lengths(tokens)
    return histogram("Tokens in a row", "tokens", "rows", found.bin_tokens, found.counts)


def share_plot(shares: Sequence[float]) -> Markup:
    """Draw how many rows have which share of their tokens trained, in per cent."""
    counts = [0] * 20
    for share in shares:
        counts[min(19, int(20 * share))] += 1
    return histogram("Share of trained tokens", "per cent of a row's tokens", "rows", 5, counts)


def render_check(view: CheckView) -> str:
    """Render the page."""
    return rendered("check.html.jinja", view=view)
