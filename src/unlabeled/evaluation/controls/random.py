"""Random weights: the same network untrained, its batch norms calibrated on training samples."""

from typing import TYPE_CHECKING

from unlabeled.encoders.readout import Readout, bare, fit_readout, one_unit
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import calibrate_, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same architecture with random weights; the features `contrast` are replaced by the standardised map."""
    network = untrained(bare(encoder), seed, data)
    calibrate_(network, data)
    atoms = network.config.get("init") == "dictionary"
    detail = "a first layer of atoms and norm statistics from data" if atoms else "norm statistics from data"
    if isinstance(encoder, Readout):
        spec = encoder.spec
        if spec.scaling == "contrast":
            spec = spec._replace(scaling="standardize", dimensions=None)
        network = fit_readout(network, spec, data, seed)
        detail += f", features {spec}"
    return Representation("random", of_encoder(network), network, one_unit=one_unit(network), detail=detail)


CONTROL = Control(make, row=6)
