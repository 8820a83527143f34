"""I-JEPA: predict the features of four rectangles of an image from the rest of it.

Withheld: four rectangles of patches, each a sixth of the image. Predicted: what a slowly moving copy of the encoder,
which sees the whole image, computes for each patch of a rectangle, one rectangle at a time, from the visible patches.

Source: Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas, "Self-Supervised Learning from Images with a
Joint-Embedding Predictive Architecture", 2023, https://arxiv.org/abs/2301.08243
Differs: networks are small by default, for images of 32 pixels. Rectangles reach the last row and column. Where images
of a batch have different numbers of visible patches, random ones are left out until all have equally many; the
authors' code leaves out those at the bottom. Area and shape of rectangles are drawn independently. A rectangle that
would leave less than a twentieth of the image visible is replaced by the first. The momentum rises along a cosine, not
a line, and the weight decay is constant. Features are those of the encoder, not of its copy: the mean over the tokens.
Shortcut: features that are the same for all images would be easy to predict. Targets receive no gradient, come from
the slowly moving copy and are predicted by a network that it lacks; the loss cannot show a collapse, the metric
`target std` does.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, ViewOptions
from unlabeled.parts.cubes import fits
from unlabeled.parts.hidden_patches import HiddenPatches, zero_loss
from unlabeled.parts.precision import full
from unlabeled.parts.spans import even
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.token_masks import FEWEST, cover, numbers, pick, rectangles
from unlabeled.parts.transformer import Predictor

__all__ = ["IJEPA"]

BLOCKS, AREA, ASPECT = 4, (0.15, 0.2), (0.75, 1.5)
"""Predicted rectangles, the fraction of the image that each covers, and height divided by width."""
CONTEXT = 0.85, 1.0
"""Area of the square outside of which nothing is visible, as a fraction of the image."""
LEAST_SIDE = 4
"""Patches on a side of an image below which rectangles are single patches."""


def loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean smooth L1 difference; 0.42 for predictions of 0 if targets are normally distributed.

    Args:
        predicted: Float, shape (batch, hidden, dim).
        targets: The same shape; receive no gradient.
    """
    return F.smooth_l1_loss(predicted, targets.detach())


def uniform(low: float, high: float) -> float:
    """A random number of a range."""
    return low + (high - low) * torch.rand(()).item()


class IJEPA(HiddenPatches, Method[ImageEncoder]):
    """Predict the features of four rectangles of an image from the rest of it.

    The metric `target std` is the standard deviation of the copy's features over the patches of all images of a batch,
    before they are normalised: near 0 all are the same.

    Args:
        encoder: Network whose features are kept; in training it sees only the visible patches.
        momentum: Initial momentum of the teacher, 0.996 in the paper; rises to 1 along a cosine.
        predictor_dim: Width of the predictor, a multiple of 32.
        predictor_blocks: Blocks of the predictor.
        **views: How the views are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-gap-tiny", "batch_size": 128, "lr": 1e-3}
    view_defaults = ViewOptions(crop=0.3, flip=0.0)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "predictor_dim": 32, "predictor_blocks": 1}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        momentum: Fraction = 0.99,
        predictor_dim: Count = 64,
        predictor_blocks: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        if self.side < LEAST_SIDE:
            raise UserError(f"an image must have at least {LEAST_SIDE} patches on a side, got {self.side}")
        self.predictor = Predictor(
            encoder.trunk.dim, encoder.trunk.dim, width=predictor_dim, blocks=predictor_blocks
        )
        self.teacher = Teacher(encoder, momentum=momentum, rising=True)
        self.baseline.fill_(zero_loss(1.0))  # if targets are normal; a collapsed encoder goes to 0

    def targets(self, images: Tensor) -> Tensor:
        """The teacher's tokens of all patches, each normalised, float, shape (batch, patches, dim)."""
        return self.watched(self.teacher.network.tokens(images)[:, self.encoder.prefix_tokens :])

    def mask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the visible patches and of those of each rectangle.

        Returns:
            int64, shape (batch, visible), and int64, shape (batch, rectangles, patches of a rectangle).
        """
        size, grid, device = len(images), (self.side, self.side), images.device
        context = rectangles(size, grid, 1, uniform(*CONTEXT), (1.0, 1.0), device)[:, 0]
        blocks = rectangles(size, grid, BLOCKS, uniform(*AREA), ASPECT, device)
        hidden = cover(blocks, math.ceil(FEWEST * self.side**2), ~context)
        allowed = ~(blocks & ~hidden[:, None]).any(2, keepdim=True)
        blocks = torch.where(allowed, blocks, blocks[:, :1])
        return numbers(even(~hidden)), numbers(blocks.flatten(0, 1)).unflatten(0, (size, BLOCKS))

    def predict(self, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions of each rectangle's features, float, shape (batch, rectangles, patches, dim)."""
        tokens, seen = (x.repeat_interleave(BLOCKS, 0) for x in (self.tokens(images, visible), visible))
        predicted = self.predictor(tokens, seen, hidden.flatten(0, 1), self.grid[1:])
        return full(predicted).unflatten(0, hidden.shape[:2])

    def forward(self, batch: Batch) -> Tensor:
        images, (visible, hidden) = self.draw(batch)
        targets = pick(self.targets(images), hidden.flatten(1))
        return loss(self.predict(images, visible, hidden).flatten(1, 2), targets)

    def patch_pictures(
        self, images: Tensor, patches: Tensor, mask: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Hidden patches are replaced by the patch of any image that fits the prediction best."""
        predicted = self.predict(images, *mask).flatten(1, 2)
        return fits(patches, mask[0], mask[1].flatten(1), predicted, self.targets(images))
