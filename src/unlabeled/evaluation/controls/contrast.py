"""Random weights with contrast: the same network untrained, with the features `contrast` learned on its output."""

from typing import TYPE_CHECKING

from unlabeled.encoders.readout import Readout, bare, fit_readout
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import calibrate_, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation | None:
    """Shows what the trained weights add to the features `contrast`; None if other features are read."""
    if not isinstance(encoder, Readout) or encoder.spec.scaling != "contrast":
        return None
    network = untrained(bare(encoder), seed, data)
    calibrate_(network, data)
    network = fit_readout(network, encoder.spec, data, seed)
    return Representation(
        "contrast", of_encoder(network), network, one_unit=True, detail=f"features {encoder.spec}"
    )


CONTROL = Control(make, ("image",), row=9, default=False)
