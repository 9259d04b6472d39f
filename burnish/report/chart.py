"""Charts as inline SVG with axes, grid and units, coloured by the page's CSS.

No plotting library is needed: the serve image stays small, CSS classes adapt the same drawing to light and dark mode,
and ElementTree escapes all text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as Tree

from markupsafe import Markup

from .axis import Axis, number

WIDTH, HEIGHT = 440, 270  # view box units, roughly CSS pixels on a wide page
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 26, 42
MAX_POINTS = 800  # per curve; longer curves keep only each section's lowest and highest point
MEANS = 60  # a noisy curve with over four times as many points is drawn faint, with this many means on top
DOTTED_BELOW = 40  # curves with fewer points are drawn with dots
BAR_HEIGHT, BAR_GAP, NAME_WIDTH, VALUE_WIDTH = 20, 8, 106, 58
LABEL_HEIGHT, GLYPH_WIDTH, DOT = 14, 8, 5

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Series:
    """One curve: its name, points, CSS colour class, and whether it is noisy."""

    name: str
    points: Sequence[Point]
    colour: str
    noisy: bool = True

    @property
    def smoothed(self) -> bool:
        """Whether the curve is drawn faint with means on top."""
        return self.noisy and len(self.points) > 4 * MEANS


@dataclass(frozen=True)
class Labelled:
    """A named value in a bar chart, or a named point in a scatter plot (y is unused in bars)."""

    name: str
    x: float
    colour: str
    y: float = 0.0


def curves(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Markup:
    """Draw curves on shared axes; long noisy curves are faint with means on top."""
    svg = _frame(title, x, y)
    for one in series:
        points = thin(one.points, MAX_POINTS)
        _path(svg, [_place(x, y, p) for p in points], f"line {one.colour}" + " faint" * one.smoothed)
        if one.smoothed:
            _path(svg, [_place(x, y, p) for p in means(one.points)], f"line {one.colour}")
        if len(points) < DOTTED_BELOW:
            for at in points:
                _dot(svg, *_place(x, y, at), one.colour, f"{one.name}: {number(at[1])} at {number(at[0])}", 2.5)
    return _markup(svg)


def histogram(title: str, x_label: str, y_label: str, width: float, counts: Sequence[int]) -> Markup:
    """Draw `counts` for bins of `width`, starting at 0."""
    x = Axis(x_label, 0, width * max(len(counts), 1))
    y = Axis.over(y_label, [*counts, 1], zero=True)
    svg = _frame(title, x, y)
    for i, count in enumerate(counts):
        (x0, y0), (x1, y1) = _place(x, y, (i * width, count)), _place(x, y, ((i + 1) * width, 0))
        bar = _rect(svg, x0 + 0.5, y0, max(x1 - x0 - 1, 0.5), y1 - y0, "fill trained")
        Tree.SubElement(bar, "title").text = f"{number(i * width)} to {number((i + 1) * width)}: {count}"
    return _markup(svg)


def bars(title: str, label: str, rows: Sequence[Labelled]) -> Markup:
    """Draw named values as horizontal bars starting at 0, labelled with the values."""
    x = Axis.over(label, [row.x for row in rows], zero=True)
    bottom = TOP + len(rows) * (BAR_HEIGHT + BAR_GAP)
    svg = _root(title, bottom + BOTTOM)
    left, right = NAME_WIDTH, WIDTH - VALUE_WIDTH
    for tick in x.ticks():
        at = left + x.share(tick) * (right - left)
        _line(svg, at, TOP - 4, at, bottom, "grid")
        _text(svg, at, bottom + 15, number(tick), "middle")
    for i, row in enumerate(rows):
        y, length = TOP + i * (BAR_HEIGHT + BAR_GAP), x.share(row.x) * (right - left)
        _text(svg, left - 8, y + 15, row.name, "end", "name")
        _rect(svg, left, y, max(length, 1), BAR_HEIGHT, f"fill {row.colour}")
        _text(svg, left + length + 6, y + 15, f"{row.x:.4f}", "start", "name")
    _line(svg, left, TOP - 4, left, bottom, "axis")
    _text(svg, (left + right) / 2, bottom + 34, label, "middle")
    return _markup(svg)


def scatter(title: str, x: Axis, y: Axis, points: Sequence[Labelled], rule: tuple[float, str] | None = None) -> Markup:
    """Draw named points; `rule` is the y value and name of a dashed line."""
    svg = _frame(title, x, y)
    if rule:
        at = _place(x, y, (x.low, rule[0]))[1]
        _line(svg, LEFT, at, WIDTH - RIGHT, at, "rule")
        _text(svg, LEFT + 6, at - 5, rule[1], "start")
    places = {point: _place(x, y, (point.x, point.y)) for point in points}
    taken = [(px - DOT, py - DOT, px + DOT, py + DOT) for px, py in places.values()]
    for point, (px, py) in places.items():
        _dot(svg, px, py, point.colour, f"{point.name}: {number(point.x)}, {number(point.y)}", DOT)
        start, bottom = _label_place(px, py, GLYPH_WIDTH * len(point.name), taken)
        _text(svg, start, bottom - 3, point.name, "start", "name")
    return _markup(svg)


def means(points: Sequence[Point]) -> list[Point]:
    """Return the mean point for each of MEANS equal sections of a curve."""
    edges = [round(i * len(points) / MEANS) for i in range(MEANS + 1)]
    parts = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)) for part in parts]


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most `limit` points in order: all, or each section's lowest and highest, which preserves spikes."""
    if len(points) <= limit:
        return list(points)
    edges = [round(i * len(points) / (limit // 2)) for i in range(limit // 2 + 1)]
    kept: list[Point] = []
    for start, end in pairwise(edges):
        part = points[start:end]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def _label_place(px: float, py: float, width: float, taken: list[Box]) -> Point:
    """Return the position (left, bottom) of a label next to a point, free of dots and other labels; add it to `taken`.

    Tries right, left, then positions further and further above and below; if none is free, uses right.
    """
    level = py + LABEL_HEIGHT / 2
    sides = (px + DOT + 4, px - DOT - 4 - width)
    shifts = [sign * n * LABEL_HEIGHT / 2 for n in range(8) for sign in (-1, 1)]
    tried = [(start, level + shift, start + width) for shift in shifts for start in sides]
    boxes = [(start, low - LABEL_HEIGHT, end, low) for start, low, end in tried if start > LEFT and end < WIDTH]
    box = next(
        (b for b in boxes if not any(_meet(b, t) for t in taken)),
        (boxes or [(sides[0], level - LABEL_HEIGHT, WIDTH, level)])[0],
    )
    taken.append(box)
    return box[0], box[3]


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _root(title: str, height: float = HEIGHT) -> Tree.Element:
    svg = Tree.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": title})
    Tree.SubElement(svg, "title").text = title
    return svg


def _frame(title: str, x: Axis, y: Axis) -> Tree.Element:
    """Draw grid, axes, ticks and labels; for legibility the y label is horizontal, above its axis."""
    svg = _root(title)
    for tick in y.ticks():
        _, at = _place(x, y, (x.low, tick))
        _line(svg, LEFT, at, WIDTH - RIGHT, at, "grid")
        _text(svg, LEFT - 7, at + 4, number(tick), "end")
    for tick in x.ticks():
        at, _ = _place(x, y, (tick, y.low))
        _line(svg, at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4, "axis")
        _text(svg, at, HEIGHT - BOTTOM + 17, number(tick), "middle")
    _line(svg, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x.label, "middle")
    _text(svg, 2, 12, y.label, "start")
    return svg


def _place(x: Axis, y: Axis, point: Point) -> Point:
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return LEFT + x.share(point[0]) * across, HEIGHT - BOTTOM - y.share(point[1]) * up


def _line(svg: Tree.Element, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    Tree.SubElement(svg, "line", {**{k: f"{v:.1f}" for k, v in ends.items()}, "class": style})


def _path(svg: Tree.Element, points: Sequence[Point], style: str) -> None:
    if len(points) > 1:
        Tree.SubElement(svg, "path", {"d": "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), "class": style})


def _rect(svg: Tree.Element, x: float, y: float, width: float, height: float, style: str) -> Tree.Element:
    sides = {"x": x, "y": y, "width": width, "height": height}
    return Tree.SubElement(svg, "rect", {**{k: f"{v:.1f}" for k, v in sides.items()}, "class": style})


def _dot(svg: Tree.Element, x: float, y: float, colour: str, title: str, radius: float) -> None:
    place = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "class": f"fill {colour}"}
    Tree.SubElement(Tree.SubElement(svg, "circle", place), "title").text = title


def _text(svg: Tree.Element, x: float, y: float, text: str, anchor: str, style: str = "") -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    Tree.SubElement(svg, "text", {**place, **({"class": style} if style else {})}).text = text


def _markup(svg: Tree.Element) -> Markup:
    return Markup(Tree.tostring(svg, encoding="unicode"))  # escaped by ElementTree
