"""Small charts as inline SVG; their colours come from the page, so they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeGuard

__all__ = ["Dot", "Line", "dots", "finite", "legend", "lines", "number", "scatter", "ticks"]


@dataclass
class Line:
    """One line of a chart.

    Args:
        name: For the legend and the tooltip.
        style: CSS class that sets the colour.
        x: Positions.
        y: Values; None, NaN and infinities leave a gap.
        dashed: Whether this is a reference to compare with; one point of it is a line across the chart.
        dotted: Whether this belongs to a solid line of the same style.
    """

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False
    dotted: bool = False


@dataclass
class Dot:
    """One value with its interval; `low` and `high` are None where there is no interval."""

    name: str
    style: str
    shape: str
    value: float
    low: float | None
    high: float | None


def finite(value: object) -> TypeGuard[float]:
    """Whether this is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: object) -> str:
    """Write a number with three significant digits, and what is no number as a dash."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.0e}" if "e" in text else text


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """A row of (name, style, shape) with a sample of each mark."""
    items = [
        f'<li class="{style}"><svg class="mark" viewBox="-6 -6 12 12" aria-hidden="true">'
        f"{_mark(shape, 0, 0)}</svg>{escape(name)}</li>"
        for name, style, shape in entries
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def lines(title: str, hint: str, drawn: Sequence[Line], *, zero: bool = False) -> str:
    """Draw lines over epochs.

    Args:
        title: What is drawn, with its unit.
        hint: How to read it, in a few words.
        drawn: The lines; a line of one point becomes a dot.
        zero: Whether the vertical axis must include 0.

    Returns:
        HTML of a figure, or nothing where no value can be drawn.
    """
    points = [(x, y) for line in drawn for x, y in zip(line.x, line.y, strict=True) if finite(y)]
    if not points:
        return ""
    left, right, top, bottom, width, height = 44, 12, 8, 24, 340, 190
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    if zero:
        y_low, y_high = min(0, y_low), max(0, y_high)
    margin = 0.06 * (y_high - y_low) or abs(y_high) * 0.1 or 1
    y_low, y_high = y_low - (0 if zero and y_low == 0 else margin), y_high + margin

    def across(x: float) -> float:
        return left + (width - left - right) * ((x - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def up(y: float) -> float:
        return top + (height - top - bottom) * (y_high - y) / (y_high - y_low)

    parts = []
    for value in ticks(y_low, y_high):
        parts.append(
            f'<line class="rule" x1="{left}" x2="{width - right}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>'
        )
        parts.append(f'<text x="{left - 7}" y="{up(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x_low, x_high, 5):
        if value == round(value):
            parts.append(
                f'<text x="{across(value):.1f}" y="{height - 6}" text-anchor="middle">{value:,.0f}</text>'
            )
    for line in drawn:
        parts.append(f'<g class="{line.style}"><title>{escape(line.name)}</title>')
        for run in _runs(line):
            (x, y), rest = run[0], run[1:]
            if rest:
                path = "".join(f"L{across(x):.1f} {up(y):.1f}" for x, y in rest)
                dashed = " dashed" if line.dashed else " dotted" if line.dotted else ""
                parts.append(f'<path class="line{dashed}" d="M{across(x):.1f} {up(y):.1f}{path}"/>')
            elif line.dashed:
                parts.append(f'<path class="line dashed" d="M{left} {up(y):.1f}H{width - right}"/>')
            else:
                parts.append(_mark("ring" if line.dotted else "circle", across(x), up(y)))
        parts.append("</g>")
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span>{escape(hint)}</span></figcaption>'
        f"{_svg(width, height, f'{title} by epoch', parts)}</figure>"
    )


def dots(columns: Sequence[tuple[str, Sequence[Dot]]], axis: str) -> str:
    """Draw values with whiskers, side by side in each column.

    Args:
        columns: Label and dots of each column, values in 0..1.
        axis: What the columns are.

    Returns:
        HTML of an SVG, percent on the vertical axis.
    """
    left, right, top, bottom, height = 46, 8, 10, 44, 260
    longest = max(len(label) for label, _ in columns)
    width = min(560, max(260, 90 + max(95, 7 * longest) * len(columns)))
    ends = [
        end
        for _, column in columns
        for dot in column
        for end in (dot.value, dot.low, dot.high)
        if end is not None
    ]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 0.05
    low, high = max(0.0, low - margin), min(1.0, high + margin)

    def up(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = []
    for value in ticks(low * 100, high * 100, 5):
        y = up(value / 100)
        parts.append(f'<line class="rule" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{value:.3g} %</text>')
    span = (width - left - right) / len(columns)
    for index, (label, column) in enumerate(columns):
        middle = left + span * (index + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{height - 24}" text-anchor="middle">{escape(label)}</text>')
        step = min(18.0, 0.8 * span / max(len(column), 1))
        for place, dot in enumerate(column):
            x = middle + step * (place - (len(column) - 1) / 2)
            about = f"{dot.name}: {100 * dot.value:.1f} %"
            whisker = ""
            if dot.low is not None and dot.high is not None and finite(dot.low) and finite(dot.high):
                whisker = f'<path class="line" d="M{x:.1f} {up(dot.low):.1f}V{up(dot.high):.1f}"/>'
                about += f" ({100 * dot.low:.1f} to {100 * dot.high:.1f})"
            mark = whisker + _mark(dot.shape, x, up(dot.value))
            parts.append(f'<g class="{dot.style}"><title>{escape(about)}</title>{mark}</g>')
    middle = (left + width - right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{height - 5}" text-anchor="middle">{escape(axis)}</text>'
    )
    return _svg(width, height, f"accuracy by {axis}", parts, "dots wide" if width > 400 else "dots")


def scatter(points: Sequence[tuple[float, float]], groups: Sequence[int], names: Sequence[str]) -> str:
    """Draw points coloured by group, each group's name at its middle.

    Args:
        points: (right, up), in 0..1.
        groups: Group of each point, from 0.
        names: Name of each group.

    Returns:
        HTML of an SVG.
    """
    side, edge = 400, 10
    placed: dict[int, list[tuple[float, float]]] = {}
    for (right, up), group in zip(points, groups, strict=True):
        placed.setdefault(group, []).append(
            (edge + right * (side - 2 * edge), edge + (1 - up) * (side - 2 * edge))
        )
    clouds, words = [], []
    for group, spots in sorted(placed.items()):
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in spots)
        cap = ("round", "square")[group // 10 % 2]
        name, color = escape(names[group]), f"k{group % 10}"
        clouds.append(
            f'<path class="cloud {color}" stroke-linecap="{cap}" d="{path}"><title>{name}</title></path>'
        )
        # the member with the least summed distance to the others lies inside its cloud, unlike the mean
        x, y = min(spots, key=lambda spot: sum(math.dist(spot, other) for other in spots))
        if len(placed) <= 20:
            words.append(f'<text class="word" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{name}</text>')
    return _svg(side, side, "map of the features", clouds + words)


def _svg(width: float, height: float, about: str, parts: Sequence[str], classes: str = "") -> str:
    """Wrap the parts of a drawing; `about` tells what it shows to those who cannot see it."""
    style = f' class="{classes}" style="max-width:{1.1 * width:.0f}px"' if classes else ""
    return (
        f'<svg{style} viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """The stretches of a line that have values."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if finite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _mark(shape: str, x: float, y: float) -> str:
    match shape:
        case "square":
            return f'<rect class="dot" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
        case "diamond":
            return f'<path class="dot" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
        case "triangle":
            return f'<path class="dot" d="M{x:.1f} {y - 4.8:.1f}l4.8 8.6h-9.6z"/>'
        case "ring":
            return f'<circle class="dot hollow" cx="{x:.1f}" cy="{y:.1f}" r="3.8"/>'
        case "line":
            return f'<path class="line" d="M{x - 6:.1f} {y:.1f}h12"/>'
        case "dash":
            return f'<path class="line dashed" d="M{x - 6:.1f} {y:.1f}h12"/>'
        case _:
            return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.4"/>'
