"""Supervised, same labels: the same network trained on the labels of the probe only, from random weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from unlabeled.encoders.readout import bare
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Settings
from unlabeled.evaluation.probes import finetune
from unlabeled.evaluation.twins import untrained

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "predictions"]


def predictions(
    encoder: "Encoder", data: Labelled, draws: Sequence[Tensor], settings: Settings
) -> list[Prediction]:
    """Predictions of the same network trained on the same labels only, from other random weights for each draw.

    Args:
        encoder: Source of the architecture.
        data: Training and test samples.
        draws: Training samples whose labels are used, int64, shape (labels,) each.
        settings: Steps and augmentation of the training, and the seed of the first draw.
    """
    trained = []
    for draw, rows in enumerate(draws):
        seed = settings.seed + draw
        trained.append(
            finetune.train(untrained(bare(encoder), seed), data, rows, replace(settings, seed=seed))
        )
    return trained


CONTROL = Control(None, row=10, default=False)
