"""What notebooks show of runs, scores and encoders: small HTML without scripts or styles of its own classes."""

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["curve", "facts", "table"]

WIDTH, HEIGHT, POINTS = 160, 36, 100
"""Pixels of a curve, and most points of it."""


def facts(title: str, values: Mapping[str, object], after: str = "") -> str:
    """A title and a table of names and values, all escaped, and HTML to stand below."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table>{after}</div>"


def table(
    title: str, head: Sequence[Sequence[str]], rows: Sequence[Sequence[str]], bold: Sequence[str] = ()
) -> str:
    """A table with a caption, all escaped.

    Args:
        title: Its caption.
        head: Rows of the head.
        rows: The others; the first cell of each is its name.
        bold: Names of rows that are set off.
    """
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in row) for row in head]
    for name, *cells in rows:
        tag = "th" if name in bold else "td"
        first = f'<{tag} style="text-align:left">{escape(name)}</{tag}>'
        lines.append(first + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table><caption style="text-align:left">{escape(title)}</caption>{body}</table>'


def curve(values: Sequence[float], reference: float | None = None) -> str:
    """A line through finite values, dashed where a reference lies; empty for fewer than two."""
    if len(values) < 2:
        return ""
    every = -(-len(values) // POINTS)
    shown = [*values[:-1:every], values[-1]]
    known = shown if reference is None else [*shown, reference]
    low, high = min(known), max(known)
    scale = (HEIGHT - 4) / (high - low) if high > low else 0.0

    def down(value: float) -> str:
        return f"{2 + (high - value) * scale:.1f}"

    across = [
        f"{2 + number * (WIDTH - 4) / (len(shown) - 1):.1f},{down(value)}"
        for number, value in enumerate(shown)
    ]
    dashed = ""
    if reference is not None:
        ends = f'x1="2" x2="{WIDTH - 2}" y1="{down(reference)}" y2="{down(reference)}"'
        dashed = f'<line {ends} stroke="currentColor" stroke-dasharray="3" opacity=".5"/>'
    line = f'<polyline points="{" ".join(across)}" fill="none" stroke="currentColor"/>'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{dashed}{line}</svg>'
