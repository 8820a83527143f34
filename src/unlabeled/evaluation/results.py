"""What an evaluation has measured so far, given away as it comes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unlabeled.evaluation import seen
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.verdict import Missing

__all__ = ["Results"]


class Results:
    """Measurements and what they were measured on.

    Args:
        about: What distinguishes this evaluation from others.
        save: Called with the scores so far after every `add`; None for nothing.
    """

    def __init__(self, about: dict[str, Any], save: Callable[[Scores], None] | None = None) -> None:
        self.about, self.save = about, save
        self.measurements: list[Measurement] = []
        self.accounts: list[dict[str, Any]] = []
        """What is known of the test samples of each task and of all probes, as `seen.account`."""
        self.expected: Sequence[Missing] = ()
        """What else is to be measured."""

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Add measurements, and give away all so far."""
        self.measurements += measurements
        if self.save is not None:
            self.save(self.scores(unfinished=True))

    def scores(self, *, unfinished: bool = False) -> Scores:
        """The scores, marked where more is to come."""
        mark = {"unfinished": True, "unmeasured": self._unmeasured()} if unfinished else {}
        return Scores.of(self.measurements, self.about | seen.together(self.accounts) | mark)

    def _unmeasured(self) -> list[list[Any]]:
        """What is expected and has not come yet, as JSON holds it."""
        done = {(one.probe, one.layer, one.labels_per_class, one.features) for one in self.measurements}
        return [list(cell) for cell in self.expected if cell not in done]
