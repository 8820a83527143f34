"""What a task is: a measure beyond classes, with controls of its own."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from unlabeled.check import UserError
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """What a file of `evaluation.tasks` defines as `TASK`.

    Attributes:
        measure: From the model and the data to measurements: ours (`features="unlabeled"`), and controls on the same
            test units, at least the raw input or a trivial guess, and a random twin. What takes long gives them one
            after the other, each of which is kept at once.
        open: Opens the data; the source has options that suit the encoder.
        size: Shorter side in pixels at which it looks at images where none is named; None for the encoder's.
        kinds: Kinds of encoders that it is for; empty for all, or where it says itself which.
    """

    measure: Callable[[EvaluatedModel, Parts], Iterable[Measurement]]
    open: Callable[[Source], Parts] = Source.open
    size: int | None = None
    kinds: tuple[str, ...] = ()

    def refuse(self, name: str, kind: str) -> None:
        """Refuse an encoder of a kind that the task is not for.

        Args:
            name: Name of the task.
            kind: Kind of the encoder.

        Raises:
            ValueError: It is for other kinds.
        """
        if self.kinds and kind not in self.kinds:
            raise UserError(
                f"probe must be one for encoders of kind {kind}, got {name}, which is for {' or '.join(self.kinds)}"
            )

    def parts(self, source: Source, size: int | None = None) -> Parts:
        """Open the data, its images stored at the size at which the task looks at them."""
        if self.size is not None:
            source = replace(source, options=source.options | {"store_size": size or self.size})
        return self.open(source)

    def __call__(self, model: EvaluatedModel, data: Any) -> list[Measurement]:
        """Measure a model.

        Args:
            model: The model.
            data: What the user names: a path, a built-in name, opened data, or a pair of training and test data.
        """
        source = Source.of(model.method or model.encoder, model.encoder, data)
        return [*self.measure(model, self.parts(source, model.size))]
