"""What a probe is: a way to predict classes from features, by the labels of some training samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["Augment", "Counts", "Prediction", "Probe", "Settings"]

Augment = Callable[[Batch], Tensor]
"""Random view of a batch, float, such as shape (batch, channels, height, width) of images."""
Counts = list[int | str]
"""Labels per class: numbers, fractions such as "1%", or "all"."""
Prediction = tuple[Tensor, str]
"""Classes of the test samples, int64, shape (test samples,), and in words what they depend on."""


@dataclass(frozen=True)
class Settings:
    """What `evaluate` sets for all probes.

    Attributes:
        seed: Seed of every random choice.
        k: Neighbours that vote.
        temperature: Temperature of their votes.
        steps: Optimizer steps of trainings; None lets their length follow from the labels.
        augment: Random view for trainings; None takes mild crops of images, and other kinds of data as they are.
    """

    seed: int = 0
    k: int = 20
    temperature: float = 0.07
    steps: int | None = None
    augment: Augment | None = None


class Predict(Protocol):
    """Learn from the labels of some training samples, and predict the classes of all test samples.

    Args:
        representation: The features.
        data: Training and test samples.
        rows: Training samples whose labels may be used, int64, shape (labels,).
        layer: Map to read; None reads the encoder's output.
        settings: Settings of all probes.
    """

    def __call__(
        self,
        representation: Representation,
        data: Labelled,
        rows: Tensor,
        layer: str | None,
        settings: Settings,
    ) -> Prediction: ...


@dataclass(frozen=True)
class Probe:
    """What a file of `evaluation.probes` defines as `PROBE`.

    Attributes:
        predict: How it predicts.
        records_as: Name of the probe in score records, where another probe computes them; None for its own.
        counts: Labels per class that it takes, from those requested and from the labels of the rarest class.
        layers: Maps of an encoder that it reads, each for a column of its own.
        whole_maps: Whether it reads maps as a whole, so that grid and scaling of features do not matter.
        trains_encoder: Whether it trains the encoder too. The same training from random weights is its one control.
        chosen_by: What features are chosen by on held-out labels, where they are: the votes of neighbours, or the loss
            of a linear classifier.
        tells: Of which features the user sees what each prediction depends on, as part of the result.
        semi_supervised: Whether it learns from unlabelled training samples too; the word `semi_supervised` names all
            such probes.
    """

    predict: Predict
    records_as: str | None = None
    counts: Callable[[Counts, int], Counts] = lambda requested, rarest: requested
    layers: "Callable[[Encoder], Sequence[str | None]]" = lambda encoder: [None]
    whole_maps: bool = False
    trains_encoder: bool = False
    chosen_by: Literal["votes", "loss"] = "loss"
    tells: Literal["none", "ours", "all"] = "none"
    semi_supervised: bool = False
