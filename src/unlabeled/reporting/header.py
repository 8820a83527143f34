"""The head of the page: its title and the facts of the runs."""

from collections.abc import Sequence

from unlabeled.reporting.entry import Entry

__all__ = ["facts", "title"]


def title(entries: Sequence[Entry]) -> str:
    """Methods and data, such as "4 runs of denoising on shapes"."""
    methods = list(dict.fromkeys(entry.name for entry in entries))
    names = " and ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"
    several = f"{len(entries)} runs of " if len(entries) > len(methods) else ""
    sources = " and ".join(dict.fromkeys(str(entry.about.get("name", "data")) for entry in entries))
    return f"{several}{names} on {sources}"


def facts(entries: Sequence[Entry]) -> tuple[dict[str, str], list[list[str]]]:
    """Facts that all runs share, and a table, its head first, of those in which they differ."""
    by_run = [entry.facts for entry in entries]
    shared, table = {}, [["run", *(entry.label for entry in entries)]]
    for name in dict.fromkeys(name for run in by_run for name in run):
        values = [run.get(name, "–") for run in by_run]
        if len(set(values)) == 1:
            shared[name] = values[0]
        elif values != [entry.label for entry in entries]:
            table.append([name, *values])
    return shared, [list(row) for row in zip(*table, strict=True)]
