"""V-JEPA: predict the features of large hidden regions of a clip from the rest of it.

Withheld: several rectangles of the frame, at all times. Predicted: what a slowly moving copy of the encoder, which sees
the whole clip, computes for each hidden cube, from the visible cubes alone.

Source: Bardes, Garrido, Ponce, Chen, Rabbat, LeCun, Assran, Ballas, "Revisiting Feature Prediction for Learning Visual
Representations from Video", 2024, https://arxiv.org/abs/2404.08471
Differs: networks are small by default. Where clips of a batch have different numbers of visible or hidden places,
random ones are left out until all have equally many; the authors' code leaves out the last frames. A rectangle that
would leave less than a twentieth of the places visible is omitted. The momentum rises along a cosine, not a line, and
the weight decay is constant. Features are those of the encoder, not of its copy: the mean over all tokens.
Shortcut: features that are the same for all clips would be easy to predict. Targets receive no gradient, come from the
slowly moving copy and are predicted by a network that it lacks; the loss cannot show a collapse, the metric
`target std` does. What is beside a visible cube in time or space could be copied, so rectangles are large and hidden at
all times.
"""

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.video import Clips
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.clips import ClipViews
from unlabeled.parts.cubes import cut, fits, pictures, whole_cubes
from unlabeled.parts.precision import full
from unlabeled.parts.spans import even
from unlabeled.parts.teacher import Teacher, token_targets
from unlabeled.parts.token_masks import FEWEST, cover, numbers, pick, rectangles, tubes
from unlabeled.parts.transformer import Predictor

__all__ = ["VJEPA"]

SHORT, LONG = (8, 0.15), (2, 0.7)
"""Rectangles of a mask, and the fraction of the frame that each covers."""
ASPECT = 0.75, 1.5
SMALLEST = 4
"""Rows and columns of cubes below which a rectangle can hide everything."""


def loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference; 0.8 for predictions of 0 if targets are normally distributed.

    Args:
        predicted: Float, shape (batch, hidden, dim).
        targets: The same shape; receive no gradient.
    """
    return (predicted - targets.detach()).abs().mean()


class VJEPA(ClipViews, Method[Clips]):
    """Predict the features of large hidden regions of a clip from the rest of it.

    The metric `target std` is the standard deviation of the copy's features over the cubes of all clips of a batch,
    before they are normalised: near 0 all are the same.

    Args:
        encoder: Network whose features are kept; in training it sees only the visible cubes.
        frames: Frames of a clip. [default: as many as the encoder reads, in whole cubes]
        stride: Frames of the video from one frame of a clip to the next.
        long: Predict two masks of each clip: eight small rectangles, and two large ones; otherwise only the first.
        momentum: Initial momentum of the teacher, 0.998 in the paper; rises to 1 along a cosine.
        predictor_dim: Width of the predictor, a multiple of 32.
        predictor_blocks: Blocks of the predictor.
        **views: How the clips are drawn, all frames of a clip alike.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("is_vit", "be a vision transformer of clips, such as vit3d-tiny", True)
    defaults: ClassVar = {"encoder": "vit3d-tiny", "batch_size": 64, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.3, flip=0.5)
    smallest: ClassVar = {"frames": 4, "predictor_dim": 32, "predictor_blocks": 1}

    def __init__(
        self,
        encoder: Clips,
        *,
        frames: Count | None = None,
        stride: Count = 1,
        long: bool = True,
        momentum: Fraction = 0.99,
        predictor_dim: Count = 64,
        predictor_blocks: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.frames, self.grid = whole_cubes(encoder, frames)
        self.stride, self.views = stride, Views(encoder.image_size, **self.view_options(views))
        if self.grid[1] < SMALLEST:
            raise UserError(f"a frame must have at least {SMALLEST} cubes on a side, got {self.grid[1]}")
        self.masks = (SHORT, LONG) if long else (SHORT,)
        self.predictor = Predictor(
            encoder.dim, encoder.dim, width=predictor_dim, blocks=predictor_blocks, kinds=len(self.masks)
        )
        self.teacher = Teacher(encoder, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return math.sqrt(2 / math.pi)  # of predicting 0, if targets are normal; a collapsed encoder goes to 0

    def targets(self, clips: Tensor) -> Tensor:
        """The teacher's tokens of all cubes, each normalised, float, shape (batch, cubes, dim)."""
        targets, self.metrics["target std"] = token_targets(self.teacher.network.tokens(clips))
        return targets

    def mask(self, clips: Tensor, kind: int) -> tuple[Tensor, Tensor]:
        """Numbers of the visible and of the predicted cubes, int64, shape (batch, visible) and (batch, predicted)."""
        times, *places = self.grid
        count, area = self.masks[kind]
        blocks = rectangles(len(clips), (places[0], places[1]), count, area, ASPECT, clips.device)
        hidden = cover(blocks, math.ceil(FEWEST * blocks.shape[2]))
        return numbers(tubes(even(~hidden), times)), numbers(tubes(even(hidden), times))

    def predict(self, clips: Tensor, visible: Tensor, hidden: Tensor, kind: int) -> Tensor:
        """Predictions of the hidden cubes' features, float, shape (batch, hidden, dim)."""
        return full(self.predictor(self.encoder.tokens(clips, visible), visible, hidden, self.grid, kind))

    def forward(self, batch: Batch) -> Tensor:
        clips, losses = self.draw(batch), []
        targets = self.targets(clips)
        for kind in range(len(self.masks)):
            visible, hidden = self.mask(clips, kind)
            losses.append(loss(self.predict(clips, visible, hidden, kind), pick(targets, hidden)))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """First frames of the cubes; hidden ones are replaced by the cube of any clip that fits the prediction best."""
        clips = self.draw(batch)
        cubes = cut(clips, self.grid)
        visible, hidden = self.mask(clips, 0)
        shown = fits(cubes, visible, hidden, self.predict(clips, visible, hidden, 0), self.targets(clips))
        return pictures(self.grid, self.encoder.trunk.depth, clip=cubes, **shown)
