"""Curves over epochs, all runs in one chart, and the course of the loss in words."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from unlabeled.reporting import charts
from unlabeled.reporting.entry import Entry

__all__ = ["course", "figures"]


def figures(entries: Sequence[Entry]) -> list[Markup]:
    """Charts of whatever the runs logged by epoch."""
    trained = [entry for entry in entries if entry.history]

    def series(value: Callable[[dict[str, Any]], Any]) -> list[charts.Line]:
        return [
            charts.Line(entry.label, entry.style, entry.epochs, [value(line) for line in entry.history])
            for entry in trained
        ]

    def chart(title: str, key: str, hint: str = "") -> Markup:
        return charts.lines(title, series(lambda line: line.get(key)), hint=hint, zero=True)

    def metric(name: str) -> Markup:
        title = name.replace("_", " ").capitalize()
        return charts.lines(title, series(lambda line: line.get("metrics", {}).get(name)))

    metrics = dict.fromkeys(
        name for entry in trained for line in entry.history for name in line.get("metrics", {})
    )
    by_epoch = [
        _loss(trained, series(lambda line: line.get("loss")), series(lambda line: line.get("chance"))),
        chart("Spread", "spread", "0: all in one direction"),
        chart("Rank", "rank", "directions in use"),
        chart("Cosine", "cosine", "1: all samples alike"),
        *map(metric, metrics),
        chart("Samples per second", "samples_per_second"),
    ]
    return [figure for figure in by_epoch if figure]


def _loss(trained: Sequence[Entry], losses: list[charts.Line], chances: list[charts.Line]) -> Markup:
    """The loss beside its chance level, once where runs agree, and on held-out samples."""
    for line in chances:
        line.name, line.style, line.dashed = f"chance, {line.name}", "chance", True
    chances = list({str(line.y): line for line in chances}.values())
    held_out = [
        charts.Line(f"held out, {entry.label}", entry.style, *entry.holdout, dotted=True)
        for entry in trained
        if _held_out(entry)
    ]
    hints = {"dashed: chance": chances, "dotted: held out": held_out}
    hint = ", ".join(
        hint for hint, lines in hints.items() if any(charts.finite(y) for line in lines for y in line.y)
    )
    return charts.lines("Loss", [*chances, *losses, *held_out], hint=hint)


def course(entries: Sequence[Entry]) -> str:
    """Sentences on the loss: its ends where there is one run, and what held-out samples tell."""
    trained = [entry for entry in entries if entry.history]
    sentences = []
    if any(map(_held_out, trained)):
        sentences.append(
            "Dotted is the loss on samples held out of training: where it rises while the other falls, the model "
            "memorises its samples."
        )
    if len(trained) == 1:
        sentences.append(_ends(trained[0]))
    for entry in trained:
        step = entry.history[-1].get("holdout_lowest_at")
        if step is not None:
            loss = f"loss of {entry.label}" if len(entries) > 1 else "loss"
            sentences.append(
                f"The {loss} on held-out samples was lowest at step {step:,} and has risen since."
            )
    return " ".join(sentences)


def _ends(entry: Entry) -> str:
    """From where to where the losses of a run went, and their chance level."""

    def ends(values: Sequence[Any]) -> str:
        first, last = charts.number(values[0]), charts.number(values[-1])
        return f"is {first}" if len(values) == 1 else f"went from {first} to {last}"

    last = entry.history[-1]
    text = f"Here the loss {ends([line.get('loss') for line in entry.history])}"
    if losses := _held_out(entry):
        text += f", on held-out samples it {ends(losses)}"
        chance = last.get("holdout_chance")
        if charts.finite(chance) and chance != last.get("chance"):
            text += f" in batches of fewer samples, where chance is {charts.number(chance)}"
    chance = last.get("chance")
    return text + (f"; chance is {charts.number(chance)}." if charts.finite(chance) else ".")


def _held_out(entry: Entry) -> list[float]:
    """Losses on held-out samples."""
    return [loss for loss in entry.holdout[1] if charts.finite(loss)]
