"""The page of a bet: who won, the curves, what was predicted, and what repeats it."""

from collections.abc import Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

from markupsafe import Markup
from torch import Tensor

from unlabeled.evaluation.bet_words import NAMES, Bet, called
from unlabeled.evaluation.measurement import Measurement, interval_of
from unlabeled.evaluation.verdict import name
from unlabeled.reporting import charts, page, pictures

__all__ = ["write_page"]

BUDGET, SIDE = 600_000, 240
"""Pixels of all pictures together, and their longest side."""


def write_page(bet: Bet, path: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a bet.

    Args:
        bet: What it measured.
        path: The file; bet.html in its folder if None.

    Returns:
        The file that was written.
    """
    terms = bet.terms
    return page.write(
        bet.path / "bet.html" if path is None else Path(path),
        "bet.html",
        title=f"The bet: {terms.method} on {terms.pretraining}, {terms.task} on {terms.target}",
        lines=bet.lines(),
        rows=bet.rows(),
        legend=[(f"s{place % 6}", NAMES.get(one, name(one))) for place, one in enumerate(_features(bet))],
        charts=[chart for chart in (_by_budget(bet), _by_labels(bet)) if chart] or [_single(bet)],
        pictures=_pictures(bet),
        config=(bet.path / "bet.toml").read_text(encoding="utf-8"),
    )


def _by_budget(bet: Bet) -> Markup:
    """Scores with the most labels by the steps of pre-training, those of controls across."""
    count = max(bet.counts)
    return _chart(
        "By budget", "steps of pre-training", bet,
        [[(steps, one) for (kind, steps, labels), one in bet.cells.items() if (kind, labels) == (features, count)]
         for features in _features(bet)],
    )  # fmt: skip


def _by_labels(bet: Bet) -> Markup:
    """Scores after the largest budget by labelled samples."""
    return _chart(
        "By labels", "labelled samples", bet,
        [[(count, one) for count in bet.counts if (one := bet.get(features, count)) is not None]
         for features in _features(bet)],
    )  # fmt: skip


def _single(bet: Bet) -> Markup:
    """Scores with their intervals side by side, where there is one budget and one number of labels."""
    rows = []
    for place, features in enumerate(_features(bet)):
        cells = [bet.get(features, count) for count in bet.counts]
        values = [None if one is None else asdict(interval_of(one)) for one in cells]
        rows.append(charts.Row(NAMES.get(features, name(features)), values, f"s{place % 6}", "circle"))
    unit = next(iter(bet.cells.values())).unit
    return charts.dots([bet.count_words(count) for count in bet.counts], rows, "labelled samples", unit)


def _features(bet: Bet) -> list[str]:
    return list(dict.fromkeys(features for features, _, _ in bet.cells))


def _chart(title: str, across: str, bet: Bet, columns: Sequence[Sequence[tuple[int, Measurement]]]) -> Markup:
    """A line for each kind of features; empty where nothing varies."""
    unit = next(iter(bet.cells.values())).unit
    unit, times = (f"{unit} in %", 100) if unit == "accuracy" else (unit, 1)
    lines = [
        (
            f"s{place % 6}",
            [
                (x, times * float(one.values.mean()), called(features, x))
                for x, one in sorted(own, key=itemgetter(0))
            ],
        )
        for place, (features, own) in enumerate(zip(_features(bet), columns, strict=True))
    ]
    if len({x for _, points in lines for x, _, _ in points}) < 2 + (across.startswith("steps")):
        return Markup()
    return charts.paths(title, lines, across, unit)


def _pictures(bet: Bet) -> list[tuple[str, list[Markup]]]:
    """Answers, then predictions of each network with the most labels, for the first test images."""
    rows: dict[str, Tensor] = {}
    for features in _features(bet):
        one = bet.get(features, max(bet.counts))
        for row, images in (one.pictures if one is not None else {}).items():
            rows.setdefault(row if row == "true" else NAMES.get(features, name(features)), images)
    count = sum(map(len, rows.values()))
    return [
        (row, [pictures.image(small, row) for small in pictures.thumbnails(images, count, BUDGET, SIDE)])
        for row, images in rows.items()
    ]
