"""Random weights, chosen map: the same network untrained, with the map that training labels choose."""

from dataclasses import replace
from typing import TYPE_CHECKING

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls import random
from unlabeled.evaluation.features import Representation

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The network of the control `random`, any of whose named maps may be read."""
    return replace(random.make(encoder, data, seed), name="maps", chooses=True)


CONTROL = Control(make, row=9, default=False)
