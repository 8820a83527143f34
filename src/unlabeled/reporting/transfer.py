"""How well the pretext task is solved against how good the features are, over states of runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.verdict import CHOSEN, OURS, counted, labels
from unlabeled.reporting import charts
from unlabeled.reporting.entry import Entry, Evaluation
from unlabeled.run import held_out_losses

__all__ = ["Panel", "panels", "pretext_at", "rank_correlation"]

FEWEST, TELLING = 3, 5
"""Fewest states of a chart, and number of states from which a correlation is rarely mere chance."""
MOST = 6
"""Largest number of charts on a page."""


class State(NamedTuple):
    """An encoder after some steps of a run: how well it solved the pretext task, and the accuracy of a probe."""

    entry: Entry
    step: int
    pretext: float
    accuracy: float


class Panel(NamedTuple):
    """A chart of states, and a sentence that sums it up."""

    chart: Markup
    words: str


def pretext_at(history: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
    """What the log says about the pretext task at a step: loss (held-out if it is known), `chance` and accuracies.

    Training losses and accuracies of a part of the task are left out, as they cannot be compared with others.

    Args:
        history: The log of a run, one line per epoch.
        step: Number of optimizer steps; the last line up to there is read.
    """
    lines = [line for line in history if (line.get("step") or 0) <= step]
    later = [line for line in history if (line.get("step") or 0) > step]
    held_out = held_out_losses(history)
    line = lines[-1] if lines else later[0] if later and held_out.get(step) is not None else None
    if line is None:
        return {}
    is_held_out = charts.finite(held_out.get(step))
    partial = line.get("partial", False)
    loss = held_out.get(step) if is_held_out else None if partial else line.get("loss")
    chance = line.get("holdout_chance", line.get("chance")) if is_held_out else line.get("chance")
    values = {"held-out loss" if is_held_out else "training loss": loss, "chance": chance}
    metrics = {} if partial else line.get("metrics", {})
    values |= {name: value for name, value in metrics.items() if "accuracy" in name}
    return {name: float(value) for name, value in values.items() if charts.finite(value)}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, where equal values share their mean rank; None if one does not vary."""
    from scipy.stats import rankdata

    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    lengths = float((a * a).sum() * (b * b).sum()) ** 0.5
    return float((a * b).sum()) / lengths if lengths > 0 else None


def panels(entries: Sequence[Entry]) -> list[Panel]:
    """A chart for each accuracy that was measured for at least three states, those with most states first."""
    groups: dict[tuple[Any, ...], list[tuple[Entry, Evaluation, float]]] = {}
    for entry in entries:
        newest: dict[tuple[Any, ...], tuple[Entry, Evaluation, float]] = {}
        for evaluation in reversed([*entry.evaluations, *entry.snapshots]):
            step = evaluation.measured.get("step")
            for record in evaluation.records if step is not None else ():
                is_control_or_task = record["features"] != OURS or record["probe"] not in PROBES
                if (
                    is_control_or_task
                    or record.get("layer") not in (None, CHOSEN)
                    or not charts.finite(record["value"])
                ):
                    continue
                key = evaluation.data, record["probe"], record.get("layer"), record["labels_per_class"]
                newest[*key, step] = entry, evaluation, record["value"]
        for (*key, _), state in newest.items():
            groups.setdefault(tuple(key), []).append(state)
    made = [_panel(key, states) for key, states in sorted(groups.items(), key=lambda item: -len(item[1]))]
    return [panel for panel in made if panel is not None][:MOST]


def _panel(key: tuple[Any, ...], measured: Sequence[tuple[Entry, Evaluation, float]]) -> Panel | None:
    """The chart of an accuracy, or why there is none; None if too few states were measured."""
    if len(measured) < FEWEST:
        return None
    logs = [pretext_at(entry.history, one.measured["step"]) for entry, one, _ in measured]
    name, of_chance = _measure(measured, logs)
    states = [
        State(entry, one.measured["step"], log[name] / (log["chance"] if of_chance else 1), accuracy)
        for (entry, one, accuracy), log in zip(measured, logs, strict=True)
        if name in log and (not of_chance or log.get("chance", 0) > 0)
    ]
    data, probe, _, count = key
    axis = f"{'training ' if 'accuracy' in name else ''}{name} on the pretext task" + (
        " as a fraction of chance" if of_chance else ""
    )
    title = f"{PROBES[probe][0].upper()}{PROBES[probe][1:]}, {labels([count])}" + (
        f", {data}" if data else ""
    )
    if len(states) < FEWEST:
        return Panel(
            Markup(""),
            f"{title}: no chart, as only {len(states)} of {len(measured)} states "
            f"{'has' if len(states) == 1 else 'have'} a {axis}.",
        )
    better = 1 if "accuracy" in name else -1
    rho = rank_correlation([better * one.pretext for one in states], [one.accuracy for one in states])
    lines = []
    for entry in {id(one.entry): one.entry for one in states}.values():
        own = sorted((one for one in states if one.entry is entry), key=lambda one: one.step)
        points = [(one.pretext, 100 * one.accuracy, f"{entry.label}, step {one.step:,}") for one in own]
        lines.append((entry.style, points))
    missing = len(measured) - len(states)
    return Panel(
        charts.paths(title, lines, axis, "accuracy of the probe in %"), _words(states, axis, rho, missing)
    )


def _measure(
    measured: Sequence[tuple[Entry, Evaluation, float]], logs: Sequence[dict[str, float]]
) -> tuple[str, bool]:
    """Measure of the pretext task, and whether as a fraction of chance, as several methods have different units."""
    common = set.intersection(*map(set, logs)) if logs else set()
    accuracies = sorted(name for name in common if "accuracy" in name)
    if accuracies and len({entry.name for entry, _, _ in measured}) == 1:
        return accuracies[0], False
    loss = max(("held-out loss", "training loss"), key=lambda one: sum(one in log for log in logs))
    return loss, len({entry.name for entry, _, _ in measured}) > 1


def _words(states: Sequence[State], axis: str, rho: float | None, missing: int) -> str:
    runs = len({id(one.entry) for one in states})
    number = f"{counted(len(states), 'states')} of {counted(runs, 'runs')}"
    if rho is None:
        text = f"Over {number}, one of the two does not vary, so they have no rank correlation."
    else:
        better = "higher" if "accuracy" in axis else "lower"
        text = f"Rank correlation of a {better} {axis} with a higher accuracy of the probe: {rho:+.2f}, over {number}."
        text += " So few states say little." if len(states) < TELLING else ""
    return text + (f" Skipped for lack of a {axis}: {counted(missing, 'states')}." if missing else "")
