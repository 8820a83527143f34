"""All evaluations of all runs, sorted into rounds that stand side by side."""

from collections.abc import Sequence
from typing import NamedTuple

from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.table import by_class
from unlabeled.evaluation.verdict import OURS, name
from unlabeled.reporting.entry import Entry, Evaluation
from unlabeled.reporting.tables import Table, arrange, tasks

__all__ = ["Round", "caveats", "controls", "rounds"]


class Round(NamedTuple):
    """Evaluations on the same data by features that were asked for alike, at most one of each run."""

    heading: str
    notes: list[str]
    tables: list[Table]
    by_class: list[tuple[str, list[list[str]]]]
    """Titles and rows, the head first, of scores of single classes."""


def rounds(entries: Sequence[Entry]) -> list[Round]:
    """Of each run the newest evaluation on the same data, then the one before, and so on; earlier states last."""
    groups: dict[tuple[bool, str, str, int], list[tuple[Entry, Evaluation]]] = {}
    for entry in entries:
        count: dict[tuple[bool, str, str], int] = {}
        for evaluation in entry.evaluations:
            features = str(evaluation.measured.get("options", {}).get("features") or "")
            key = not evaluation.current, evaluation.data, features
            count[key] = count.get(key, 0) + 1
            groups.setdefault((*key, count[key]), []).append((entry, evaluation))
    stated = set(caveats(entries))
    result = []
    for (stale, data, features, _), judged in sorted(groups.items(), key=lambda item: item[0][0]):
        words = (
            f"features {features}"
            if features
            else ""
            if len(judged) > 1
            else judged[0][0].feature_words(judged[0][1])
        )
        heading = " · ".join(
            filter(None, [data or "data", words, "earlier state of the encoder" if stale else ""])
        )
        records = [(entry.label, evaluation.records) for entry, evaluation in judged]
        tables = [*arrange(records), *tasks(records)]
        classes = [
            (f"{label}: {title}" if len(records) > 1 else title, rows)
            for label, own in records
            for title, rows in by_class(own)
        ]
        result.append(Round(heading, _notes(judged, len(entries), stated), tables, classes))
        stated |= {caveat for _, evaluation in judged for caveat in evaluation.caveats}
    return result


def controls(entries: Sequence[Entry]) -> list[str]:
    """What the controls of all evaluations are called, those of tasks last."""
    records = [record for entry in entries for one in entry.evaluations for record in one.records]
    measured = dict.fromkeys(record["features"] for record in records if record["features"] != OURS)
    return [name(one) for one in sorted(measured, key=lambda one: one not in CONTROLS)]


def caveats(entries: Sequence[Entry]) -> dict[str, str]:
    """Caveats of the evaluations that the verdict rests on, each once, and to which it applies; empty where to all."""
    judged = [(entry, evaluation) for entry in entries for evaluation in entry.judged]
    result = {}
    for caveat in dict.fromkeys(caveat for _, evaluation in judged for caveat in evaluation.caveats):
        with_it = [(entry, evaluation) for entry, evaluation in judged if caveat in evaluation.caveats]
        data = dict.fromkeys(evaluation.data for _, evaluation in with_it)
        labels = dict.fromkeys(entry.label for entry, _ in with_it)
        whole = len(with_it) == sum(evaluation.data in data for _, evaluation in judged)
        scope = f"On {' and '.join(data)}" if whole else "; ".join(labels)
        result[caveat] = "" if len(with_it) == len(judged) else scope
    return result


def _notes(judged: Sequence[tuple[Entry, Evaluation]], runs: int, stated: set[str]) -> list[str]:
    """What was measured on what, with the caveats that the page has not stated yet."""
    labels: dict[str, list[str]] = {}
    for entry, evaluation in judged:
        new = [caveat for caveat in evaluation.caveats if caveat not in stated]
        reference = ["See the caveat at the top of the page."] if len(new) < len(evaluation.caveats) else []
        if note := " ".join(filter(None, [evaluation.setting, *new, *reference])):
            labels.setdefault(note, []).append(entry.label)
    if [len(names) for names in labels.values()] == [runs]:
        return list(labels)
    return [f"{'; '.join(names)}: {note}" for note, names in labels.items()]
