"""Raw input: what the encoder reads, without any network, in the form of its kind of data."""

from typing import TYPE_CHECKING

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data | None" = None, seed: int = 0) -> Representation:
    """The input without any network; neither the data nor the seed matters."""
    # Pixels share a unit; rare words would weigh as much as frequent ones if each were standardised.
    one_unit = encoder.kind in ("image", "text", "words")
    return Representation(
        "raw", lambda batch, layer: encoder.raw(batch), one_unit=one_unit, detail=encoder.raw_detail
    )


CONTROL = Control(make)
