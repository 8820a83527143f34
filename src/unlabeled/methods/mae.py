"""MAE: see a quarter of the patches of an image and fill in the pixels of the rest.

Withheld: most patches of an image, at random. Predicted: the pixels of each hidden patch, brought to mean 0 and
variance 1, from the visible patches alone.

Source: He, Chen, Xie, Li, Dollár, Girshick, "Masked Autoencoders Are Scalable Vision Learners", 2021,
https://arxiv.org/abs/2111.06377
Differs: encoder and decoder are small by default, for images of 32 pixels. There is no class token by default; that
of another network is not shown to the decoder. The deviation, not its square, is raised by 0.000001. Crops are
resampled bilinearly.
Shortcut: neighbouring patches are alike, so what few patches hide can be interpolated. So most are hidden.
"""

from typing import Annotated, ClassVar, Unpack

import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts.cubes import completed, normalized, replace
from unlabeled.parts.hidden_patches import HiddenPatches
from unlabeled.parts.precision import full
from unlabeled.parts.token_masks import both, pick, random_cells
from unlabeled.parts.transformer import Predictor

__all__ = ["MAE"]


class MAE(HiddenPatches, Method[ImageEncoder]):
    """See a quarter of the patches of an image and fill in the pixels of the rest.

    Args:
        encoder: Network whose features are kept; in training it sees only the visible patches.
        mask: Fraction of the patches that are hidden, rounded down to whole patches.
        decoder_dim: Width of the decoder, a multiple of 32.
        decoder_blocks: Blocks of the decoder.
        **views: How the views are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-gap-small", "batch_size": 128, "lr": 1.5e-3, "betas": [0.9, 0.95]}
    view_defaults = ViewOptions(crop=0.2, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "image_size": 16, "decoder_dim": 32}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        mask: Annotated[float, Range(above=0, below=1)] = 0.75,
        decoder_dim: Count = 96,
        decoder_blocks: Count = 1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, mask)
        if encoder.patch_size < 2:
            raise UserError(
                f"patches must be at least 2 pixels wide, got 1 with image_size {encoder.image_size}. "
                "Take a larger image_size"
            )
        pixels = encoder.in_channels * encoder.patch_size**2
        self.decoder = Predictor(encoder.trunk.dim, pixels, width=decoder_dim, blocks=decoder_blocks)

    def prepare(self, data: Data) -> None:
        # The loss of predicting the mean: 1 - 1 / numbers, less where patches are of one colour.
        self.baseline.copy_(self.targets(self.views(data.sample(512))).square().mean())

    def targets(self, images: Tensor) -> Tensor:
        """What is predicted of each patch, float, shape (batch, patches, numbers)."""
        return normalized(self.joined(images))

    def mask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the visible and of the hidden patches, int64, shape (batch, visible) and (batch, hidden)."""
        return both(random_cells(len(images), self.side**2, self.hidden, images.device))

    def predict(self, images: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predictions of hidden patches, float, shape (batch, hidden, numbers)."""
        return full(self.decoder(self.tokens(images, visible), visible, hidden, self.grid[1:]))

    def forward(self, batch: Batch) -> Tensor:
        images, (visible, hidden) = self.draw(batch)
        return F.mse_loss(self.predict(images, visible, hidden), pick(self.targets(images), hidden))

    def patch_pictures(
        self, images: Tensor, patches: Tensor, mask: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Predictions have the true mean and deviation of their patch, which are not predicted."""
        whole = completed(self.joined(images), mask[1], self.predict(images, *mask))
        return {"visible": replace(patches, mask[1], 0.5), "completed": whole.view_as(patches)}
