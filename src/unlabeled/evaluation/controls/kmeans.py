"""K-means filters: the same image network untrained, but with the filters of each layer from clusters of patches."""

from typing import TYPE_CHECKING

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls import rescaled
from unlabeled.evaluation.features import Representation

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation | None:
    """The control `rescaled`, but with filter directions from the training images; None for dictionaries."""
    return rescaled.make(encoder, data, seed, "kmeans")


CONTROL = Control(make, ("image",), row=8)
