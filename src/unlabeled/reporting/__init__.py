"""One self-contained page about a run, or about several side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlabeled.check import UserError
from unlabeled.data import open_data
from unlabeled.reporting import evaluations, imitations, page, sections, tracks, transfer
from unlabeled.reporting.entry import Entry, facts, label, look, title
from unlabeled.run import opened

__all__ = ["report"]


def report(
    runs: Any,
    *,
    data: Any = None,
    out: str | Path | None = None,
    scores: Any = None,
    device: str = "cpu",
) -> Path:
    """Write one self-contained HTML page about a run, or about several side by side.

    Sections without data are omitted.

    Args:
        runs: A run, the folder of one, or several of them.
        data: What to show pictures, neighbours and the map of: a `Data`, or a path or name to open; None
            opens what each run was trained on, where it still can be found.
        out: The file to write; `report.html` in the folder of the first run if None.
        scores: Scores or score records of a run, or a list with those of each run; None takes all that each run
            has stored.
        device: Where to compute features.

    Returns:
        The file that was written.

    Raises:
        ValueError: There is no run, `data` cannot be opened, or `scores` are not one list for each run.
    """
    several = runs if isinstance(runs, Iterable) and not isinstance(runs, str | Path) else [runs]
    loaded = [opened(run) for run in several]
    if not loaded:
        raise UserError("runs must hold at least one run, got none")
    parts = zip(loaded, _evaluations(loaded, scores), _data(loaded, data), strict=True)
    entries = [Entry(*part, style=f"s{number % 6}") for number, part in enumerate(parts)]
    label(entries)
    look(entries, device)
    shared_facts, facts_by_run = facts(entries)
    return page.write(
        entries[0].path / "report.html" if out is None else Path(out),
        "report.html",
        title=title(entries),
        entries=entries,
        shared_facts=shared_facts,
        facts_by_run=facts_by_run,
        caveats=evaluations.caveats(entries),
        metrics=dict.fromkeys(
            name for entry in entries for line in entry.history for name in line.get("metrics", {})
        ),
        pretext=sections.pretext(entries, device),
        tracks=tracks.tracks(entries, device),
        imitations=imitations.imitations(entries, device),
        neighbours=sections.neighbours(entries),
        filters=sections.first_layers(entries),
        maps=sections.maps(entries),
        rounds=evaluations.rounds(entries),
        predictions=sections.predictions(entries),
        controls=evaluations.controls(entries),
        transfer=transfer.panels(entries),
    )


def _evaluations(runs: Sequence[Any], scores: Any) -> list[list[dict[str, Any]]]:
    """Evaluations of each run, the newest first: the stored ones, or those in `scores`."""
    if scores is None:
        return [run.evaluations for run in runs]
    lists = [scores] if all(isinstance(entry, Mapping) for entry in scores) else list(scores)
    if len(lists) != len(runs):
        raise UserError(f"scores must hold one list for each of the {len(runs)} runs, got {len(lists)}")
    return [[{**getattr(records, "about", {}), "records": list(records)}] for records in lists]


def _data(runs: Sequence[Any], data: Any) -> list[Any]:
    """The data of each run, opened once for runs that share it; None where what was trained on is gone."""
    if data is not None and not isinstance(data, str | Path):
        return [data] * len(runs)
    cache: dict[tuple[str, str], Any] = {}
    keys = []
    for run in runs:
        source = str(data or run.config.get("data", {}).get("source", ""))
        key = (source, repr(run.reading))
        keys.append(key)
        if key not in cache:
            try:
                cache[key] = open_data(source, **run.reading) if source else None
            except (ValueError, OSError):
                if data is not None:
                    raise
                cache[key] = None
    return [cache[key] for key in keys]
