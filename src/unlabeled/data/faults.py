"""What is wrong with labels, said in one line: how often, and where first."""

from collections import Counter

from unlabeled import check
from unlabeled.data.notes import note

__all__ = ["Faults"]

_SHOWN = 3


class Faults:
    """Counts what is wrong, with the first places of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = {}

    def add(self, what: str, place: str, detail: str = "") -> None:
        """Record a fault.

        Args:
            what: What is wrong, a plural such as "boxes without area".
            place: Where, such as a file.
            detail: What was found there.
        """
        self.counts[what] += 1
        places = self.places.setdefault(what, [])
        if place not in [shown.partition(": ")[0] for shown in places] and len(places) < _SHOWN:
            places.append(f"{place}: {detail}" if detail else place)

    def __str__(self) -> str:
        parts = []
        for what, count in self.counts.items():
            more = ", ..." if count > len(self.places[what]) else ""
            parts.append(f"{count:,} {what} ({', '.join(self.places[what])}{more})")
        return check.one_line("; ".join(parts))

    def tell(self, name: str) -> None:
        """Say all of it in one line, nothing where nothing is wrong; `name` is what the data is called."""
        if self.counts:
            note(f"{name}: {self}")
