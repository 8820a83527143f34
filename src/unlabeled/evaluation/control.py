"""What a control is: features without what was learned, which learned features must beat on the same labels."""

from collections.abc import Callable
from dataclasses import dataclass

from unlabeled.evaluation.features import Representation

__all__ = ["Control", "Make"]

Make = Callable[..., Representation | None]
"""From the encoder that it is beside, the training samples as that encoder reads them, and the seed of random choices;
with `needs_weights` also from `weights`, which are public ones.

It may look at nothing else: neither at labels nor at test samples. None where there is nothing to make of the encoder.
"""


@dataclass(frozen=True)
class Control:
    """What a file of `evaluation.controls` defines as `CONTROL`.

    Attributes:
        make: Makes the representation, fitted without labels; None where the control trains with labels itself.
        kinds: Kinds of encoders that it can stand beside; empty for all.
        row: Its place among the controls, from 0 for the plainest.
        default: Whether it is measured where the user names none: it takes seconds.
        baseline: Whether it is what older methods make of the raw input without labels; the word `baselines` names all
            such controls.
        needs_weights: Whether it is made of weights that the user names, or that a run started from.
    """

    make: Make | None
    kinds: tuple[str, ...] = ()
    row: int = 0
    default: bool = True
    baseline: bool = False
    needs_weights: bool = False

    def suits(self, kind: str) -> bool:
        """Whether it can stand beside an encoder of some kind."""
        return not self.kinds or kind in self.kinds
