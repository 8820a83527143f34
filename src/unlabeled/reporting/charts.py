"""Small charts as inline SVG; their colours come from the page, so they follow light and dark."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup, escape

__all__ = ["Line", "Row", "dots", "finite", "lines", "mark", "number", "paths", "scatter", "ticks"]

Scale = Callable[[float], float]


@dataclass
class Line:
    """One line of a chart.

    Args:
        name: For the tooltip.
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
class Row:
    """Values of one kind, one for each column of a table or chart.

    Args:
        name: What they are of.
        cells: Mappings with `value` and, where there is an interval, its ends `low` and `high`; None for no value.
        style: CSS class of the mark's colour.
        shape: Shape of the mark; none if empty.
        ours: Whether to set the row off from the others.
    """

    name: str
    cells: Sequence[Mapping[str, Any] | None]
    style: str = ""
    shape: str = ""
    ours: bool = False


def finite(value: object) -> TypeGuard[float]:
    """Whether this is a number that can be plotted."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: object) -> str:
    """Write a number with three significant digits, and anything else as a dash."""
    if not finite(value):
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


def mark(style: str, shape: str) -> Markup:
    """The sign of a row or line in a legend: a small SVG."""
    sign = _sign(shape, 0, 0)
    return Markup(f'<svg class="mark {style}" viewBox="-6 -6 12 12" aria-hidden="true">{sign}</svg>')


def lines(title: str, series: Sequence[Line], *, hint: str = "", zero: bool = False) -> Markup:
    """Plot lines over epochs.

    Args:
        title: What is plotted, with its unit.
        series: The lines; a line of one point becomes a dot.
        hint: How to read it, in a few words.
        zero: Whether the vertical axis must include 0.

    Returns:
        HTML of a figure, empty where there is no value to plot.
    """
    points = [(x, y) for line in series for x, y in zip(line.x, line.y, strict=True) if finite(y)]
    if not points:
        return Markup()
    width, height, left, right = 340, 190, 44, 328
    xs, ys = zip(*points, strict=True)
    low, high = (min(0, *ys), max(0, *ys)) if zero else (min(ys), max(ys))
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1
    low, high = low - (0 if zero and low == 0 else margin), high + margin
    across, up = _scale(min(xs), max(xs), left, right), _scale(low, high, height - 24, 8)
    parts = _rules([(up(value), number(value)) for value in ticks(low, high)], left, right)
    for value in ticks(min(xs), max(xs), 5):
        if value == round(value):
            parts.append(_text(across(value), height - 6, f"{value:,.0f}"))
    for line in series:
        parts.append(f'<g class="{line.style}"><title>{escape(line.name)}</title>')
        parts += [_stretch(line, stretch, across, up, left, right) for stretch in _stretches(line)]
        parts.append("</g>")
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(hint)}</span></figcaption>"
    return Markup(
        f'<figure class="chart">{caption}{_svg(width, height, f"{title} by epoch", parts)}</figure>'
    )


def paths(
    title: str, lines: Sequence[tuple[str, Sequence[tuple[float, float, str]]]], across: str, upwards: str
) -> Markup:
    """Plot points of two values, those of a line joined in their order, the last one filled.

    Args:
        title: What is plotted.
        lines: CSS class of each line, and its points: (right, up, tooltip).
        across: What lies to the right, with its unit.
        upwards: What lies upwards, with its unit.

    Returns:
        HTML of a figure.
    """
    width, height, left, right = 340, 230, 44, 328
    spots = [point for _, points in lines for point in points]
    ranges: list[tuple[float, float]] = []
    for values in ([x for x, _, _ in spots], [y for _, y, _ in spots]):
        margin = 0.08 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
        ranges.append((min(values) - margin, max(values) + margin))
    to_x, to_y = _scale(*ranges[0], left, right), _scale(*ranges[1], height - 40, 8)
    parts = _rules([(to_y(value), number(value)) for value in ticks(*ranges[1])], left, right)
    parts += [_text(to_x(value), height - 24, number(value)) for value in ticks(*ranges[0], 5)]
    parts.append(_text((left + right) / 2, height - 5, across, "axis"))
    for style, points in lines:
        parts.append(f'<g class="{style}">')
        if len(points) > 1:
            path = "L".join(f"{to_x(x):.1f} {to_y(y):.1f}" for x, y, _ in points)
            parts.append(f'<path class="line dotted" d="M{path}"/>')
        for place, (x, y, tooltip) in enumerate(points, 1):
            sign = _sign("circle" if place == len(points) else "ring", to_x(x), to_y(y))
            words = f"{tooltip}: {across} {number(x)}, {upwards} {number(y)}"
            parts.append(f"<g><title>{escape(words)}</title>{sign}</g>")
        parts.append("</g>")
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(upwards)}</span></figcaption>"
    return Markup(
        f'<figure class="chart">{caption}{_svg(width, height, f"{upwards} by {across}", parts)}</figure>'
    )


def dots(columns: Sequence[str], rows: Sequence[Row], axis: str, unit: str = "accuracy") -> Markup:
    """Plot values in 0..1 with their intervals, those of a column side by side.

    Args:
        columns: Names of the columns.
        rows: The values.
        axis: What the columns are.
        unit: What the values are; accuracies are in percent.

    Returns:
        HTML of an SVG; empty where there is no value to plot.
    """
    dots = [
        [(row, cell) for row in rows if (cell := row.cells[index]) and finite(cell.get("value"))]
        for index in range(len(columns))
    ]
    ends = [end for column in dots for _, cell in column for end in _ends(cell)]
    if not ends:
        return Markup()
    width, height = min(560, max(260, 90 + max(95, 7 * max(map(len, columns))) * len(columns))), 260
    left, right = 46, width - 8
    margin = 0.05 * (max(ends) - min(ends)) or 0.05
    low, high = max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)
    up = _scale(low, high, height - 44, 10)
    times, sign = (100, " %") if unit == "accuracy" else (1, "")
    grid = [(up(value / times), f"{value:.3g}{sign}") for value in ticks(low * times, high * times, 5)]
    parts = _rules(grid, left, right)
    span = (right - left) / len(columns)
    for index, (label, column) in enumerate(zip(columns, dots, strict=True)):
        middle = left + span * (index + 0.5)
        parts.append(_text(middle, height - 24, label))
        step = min(18.0, 0.8 * span / max(len(column), 1))
        for order, (row, cell) in enumerate(column):
            parts.append(_dot(row, cell, middle + step * (order - (len(column) - 1) / 2), up, unit))
    parts.append(_text((left + right) / 2, height - 5, axis, "axis"))
    return _svg(width, height, f"{unit} by {axis}", parts, "dots wide" if width > 400 else "dots")


def scatter(points: Sequence[tuple[float, float]], groups: Sequence[int], names: Sequence[str]) -> Markup:
    """Plot points coloured by group, each group's name at its middle.

    Args:
        points: (right, up), in 0..1.
        groups: Group of each point, from 0.
        names: Name of each group.

    Returns:
        HTML of an SVG.
    """
    side, edge = 400, 10
    members: dict[int, list[tuple[float, float]]] = {}
    for (right, up), group in zip(points, groups, strict=True):
        spot = edge + right * (side - 2 * edge), edge + (1 - up) * (side - 2 * edge)
        members.setdefault(group, []).append(spot)
    clouds, words = [], []
    for group, spots in sorted(members.items()):
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in spots)
        cap, title = ("round", "square")[group // 10 % 2], f"<title>{escape(names[group])}</title>"
        clouds.append(f'<path class="cloud k{group % 10}" stroke-linecap="{cap}" d="{path}">{title}</path>')
        # the member with the least summed distance to the others lies inside its cloud, unlike the mean
        x, y = min(spots, key=lambda spot: sum(math.dist(spot, other) for other in spots))
        words.append((x, y + 4, names[group]))
    labels = [_text(*word, "word") for word in _apart(words)] if len(words) <= 20 else []
    return _svg(side, side, "map of the features", clouds + labels)


def _apart(words: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Words, of at most 8 pixels a letter, from the top down, moved down where they would cover one another."""
    result: list[tuple[float, float, str]] = []
    for x, y, word in sorted(words, key=lambda item: item[1]):
        for above_x, above_y, above in result:
            if abs(x - above_x) < 4.1 * (len(word) + len(above)) and y - above_y < 13:
                y = above_y + 13
        result.append((x, y, word))
    return result


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map of low..high to start..end; all values go to the middle where both are equal."""
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _svg(width: float, height: float, description: str, parts: Sequence[str], style: str = "") -> Markup:
    """Wrap the parts of a chart, with a description for those who cannot see it."""
    style = f' class="{style}" style="max-width:{1.1 * width:.0f}px"' if style else ""
    head = f'<svg{style} viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> str:
    style = f' class="{style}"' if style else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rules(values: Sequence[tuple[float, str]], left: float, right: float) -> list[str]:
    """Horizontal lines at some heights, each with its value to the left."""
    return [
        f'<line class="rule" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        + _text(left - 7, y + 4, text, anchor="end")
        for y, text in values
    ]


def _stretches(line: Line) -> list[list[tuple[float, float]]]:
    """The stretches of a line that have values."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if finite(y):
            stretches[-1].append((x, y))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _stretch(
    line: Line, points: Sequence[tuple[float, float]], across: Scale, up: Scale, left: float, right: float
) -> str:
    (x, y), *rest = [(across(x), up(y)) for x, y in points]
    if rest:
        path = "".join(f"L{x:.1f} {y:.1f}" for x, y in rest)
        dashed = " dashed" if line.dashed else " dotted" if line.dotted else ""
        return f'<path class="line{dashed}" d="M{x:.1f} {y:.1f}{path}"/>'
    if line.dashed:
        return f'<path class="line dashed" d="M{left} {y:.1f}H{right}"/>'
    return _sign("ring" if line.dotted else "circle", x, y)


def _ends(cell: Mapping[str, Any]) -> list[float]:
    """The value of a cell and, if it has an interval, its ends."""
    interval = list(filter(finite, (cell.get("low"), cell.get("high"))))
    return [cell["value"], *(interval if len(interval) == 2 else [])]


def _dot(row: Row, cell: Mapping[str, Any], x: float, up: Scale, unit: str) -> str:
    """A value with its interval as a whisker and both in the tooltip."""
    value, *interval = _ends(cell)
    value_words, ends = f"{unit} {value:.3f}", [f"{end:.3f}" for end in interval]
    if unit == "accuracy":
        value_words, ends = f"{100 * value:.1f} %", [f"{100 * end:.1f}" for end in interval]
    tooltip, whisker = f"{row.name}: {value_words}", ""
    if interval:
        low, high = interval
        whisker = f'<path class="line" d="M{x:.1f} {up(low):.1f}V{up(high):.1f}"/>'
        tooltip += f" ({' to '.join(ends)})"
    sign = whisker + _sign(row.shape, x, up(value))
    return f'<g class="{row.style}"><title>{escape(tooltip)}</title>{sign}</g>'


def _sign(shape: str, x: float, y: float) -> str:
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
        case _:
            return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.4"/>'
