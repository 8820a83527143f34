"""Layer-by-layer training of an encoder that is a chain of stages."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts import gather
from unlabeled.parts.decoder import decoder
from unlabeled.parts.teacher import Follower

__all__ = ["Stack", "frozen"]


class Stack(Follower):
    """One decoder for each stage of an encoder, and which stage is being trained.

    Training is divided into equal parts: one for each stage, then one in which all stages are trained together, with
    their decoders in reverse order.

    Args:
        kind: Kind of the decoders, see `parts.decoder.decoder`.
        shapes: Shape of the image and of the output of each stage: channels, height, width.
    """

    progress: Tensor

    def __init__(self, kind: Literal["conv", "linear"], shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(
            decoder(kind, (after[0], after[1], after[2]), before[0], before[1])
            for before, after in pairwise(shapes)
        )
        self.register_buffer("progress", torch.tensor(0.0))

    def restart(self) -> None:
        """Begin with the first stage.

        Raises:
            UserError: Several processes train together: they expect a gradient of every weight in every step.
        """
        if gather.processes() > 1:
            raise UserError(
                "devices and nodes must be 1 where layers are trained one by one, "
                f"got {gather.processes()} processes"
            )
        self.progress.zero_()

    def follow(self, progress: float) -> None:
        # A run that is resumed with more steps loses some of its progress; no stage is trained a second time.
        self.progress.fill_(max(float(self.progress), progress))

    @property
    def stage(self) -> int:
        """Number of the stage that is being trained, from 0; the number of stages when all are trained together."""
        return min(int(self.progress * (len(self.decoders) + 1)), len(self.decoders))

    def forward(self, features: Tensor) -> Tensor:
        """From the output of the last stage to an image through all decoders."""
        for decode in reversed(self.decoders):
            features = decode(features)
        return features


@torch.no_grad()
def frozen(stages: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Output of a chain of stages in evaluation mode, without a gradient; their norms learn nothing from it."""
    for stage in stages:
        training = stage.training
        x = stage.eval()(x)
        stage.train(training)
    return x
