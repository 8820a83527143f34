"""Random weights: the same network untrained, its batch norms calibrated on training samples."""

from typing import TYPE_CHECKING

from unlabeled.encoders.readout import one_unit
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import calibrate_, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same architecture with weights drawn by the seed."""
    network = untrained(encoder, seed)
    calibrate_(network, data)
    return Representation(
        "random", of_encoder(network), network, one_unit=one_unit(network), detail="norm statistics from data"
    )


CONTROL = Control(make, row=6)
