"""One self-contained page about a run, or about several side by side."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlabeled.check import UserError
from unlabeled.data import open_data
from unlabeled.files import atomic
from unlabeled.reporting import page, sections
from unlabeled.reporting.entry import Entry, label, look
from unlabeled.reporting.tracks import tracks
from unlabeled.run import opened as opened_run
from unlabeled.version import __version__

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

    Sections without data are left out.

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
    opened = [opened_run(run) for run in several]
    if not opened:
        raise UserError("runs must hold at least one run, got none")
    measured, sources = _scores(opened, scores), _data(opened, data)
    entries = [Entry(*parts) for parts in zip(opened, measured, sources, strict=True)]
    label(entries)
    look(entries, device)
    title, head = sections.header(entries)
    body = [
        page.section("training", "Training", *sections.training(entries)),
        page.section("pretext", "Withheld and predicted", *sections.pretext(entries, device)),
        page.section("tracks", "Masks carried along", *tracks(entries, device)),
        page.section("neighbors", "Nearest neighbours", *sections.neighbors(entries)),
        page.section("filters", "First-layer filters", *sections.filters(entries)),
        page.section("map", "Map of the features", *sections.feature_map(entries)),
        page.section("scores", "Scores", *sections.scores(entries)),
        page.section("repeat", "Repeat it", *sections.repeat(entries)),
    ]
    path = entries[0].path / "report.html" if out is None else Path(out)
    with atomic(path) as temporary:
        text = page.document(title, head, body, f"Written by unlabeled {__version__}.")
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _scores(runs: Sequence[Any], scores: Any) -> list[list[dict[str, Any]]]:
    """Evaluations of each run, the newest first, from what was given or stored."""
    if scores is None:
        return [run.evaluations for run in runs]
    lists = [scores] if all(isinstance(entry, Mapping) for entry in scores) else list(scores)
    if len(lists) != len(runs):
        raise UserError(f"scores must hold one list for each of the {len(runs)} runs, got {len(lists)}")
    return [[{**getattr(given, "about", {}), "records": list(given)}] for given in lists]


def _data(runs: Sequence[Any], data: Any) -> list[Any]:
    """The data of each run, opened once for runs that share it; None where what was trained on is gone."""
    if data is not None and not isinstance(data, str | Path):
        return [data] * len(runs)
    found: dict[tuple[str, str], Any] = {}
    keys = []
    for run in runs:
        source = str(data or run.config.get("data", {}).get("source", ""))
        key = (source, repr(run.reading))
        keys.append(key)
        if key not in found:
            try:
                found[key] = open_data(source, **run.reading) if source else None
            except (ValueError, OSError):
                if data is not None:
                    raise
                found[key] = None
    return [found[key] for key in keys]
