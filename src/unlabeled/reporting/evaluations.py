"""All evaluations of all runs, sorted into rounds that stand side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from unlabeled.reporting.entry import Entry, Evaluation
from unlabeled.reporting.tables import Table, arrange, measures

__all__ = ["Round", "caveats", "place", "rounds"]

Judged = Sequence[tuple[Entry, Evaluation]]


@dataclass
class Round:
    """Evaluations on the same data, at most one of each run."""

    heading: str
    notes: list[str]
    tables: list[Table]


def rounds(entries: Sequence[Entry]) -> list[Round]:
    """Of each run the newest evaluation on the same data, then the one before, and so on; earlier states last."""
    groups: dict[tuple[bool, str, int], list[tuple[Entry, Evaluation]]] = {}
    for entry in entries:
        count: dict[tuple[bool, str], int] = {}
        for evaluation in entry.evaluations:
            key = not evaluation.current, evaluation.data
            count[key] = count.get(key, 0) + 1
            groups.setdefault((*key, count[key]), []).append((entry, evaluation))
    stated = set(caveats(entries))
    result = []
    for (stale, data, _), judged in sorted(groups.items(), key=lambda item: item[0][0]):
        heading = (data or "data") + (" · earlier state of the encoder" if stale else "")
        records = [(entry.label, evaluation.records) for entry, evaluation in judged]
        tables = [*arrange(records), *measures(records)]
        result.append(Round(heading, _notes(judged, len(entries), stated), tables))
        stated |= {caveat for _, evaluation in judged for caveat in evaluation.caveats}
    return result


def caveats(entries: Sequence[Entry]) -> dict[str, str]:
    """Caveats of the evaluations that the verdict rests on, each once, and to which it applies; empty where to all."""
    judged = [(entry, evaluation) for entry in entries for evaluation in entry.judged]
    places: dict[str, list[str]] = {}
    for entry, evaluation in judged:
        for caveat in evaluation.caveats:
            places.setdefault(caveat, []).append(place(entry, evaluation, entries))
    return {
        caveat: "" if len(where) == len(judged) else ", ".join(dict.fromkeys(where))
        for caveat, where in places.items()
    }


def place(entry: Entry, evaluation: Evaluation, entries: Sequence[Entry]) -> str:
    """Run and data of an evaluation, as far as several are on the page."""
    label = entry.label if len(entries) > 1 else ""
    data = f"on {evaluation.data}" if len(entry.judged) > 1 and evaluation.data else ""
    return f"{label} {data}".strip()


def _notes(judged: Judged, runs: int, stated: set[str]) -> list[str]:
    """What was measured on what, with the caveats that the page has not stated yet."""
    labels: dict[str, list[str]] = {}
    for entry, evaluation in judged:
        new = [caveat for caveat in evaluation.caveats if caveat not in stated]
        known = ["See the caveat at the top of the page."] if len(new) < len(evaluation.caveats) else []
        if note := " ".join(filter(None, [evaluation.setting, *new, *known])):
            labels.setdefault(note, []).append(entry.label)
    if [len(names) for names in labels.values()] == [runs]:
        return list(labels)
    return [f"{', '.join(names)}: {note}" for note, names in labels.items()]
