"""SimMIM: replace squares of an image by a learned token in the encoder's input and predict their pixels.

Withheld: squares of a few patches each; the network still sees where they are. Predicted: their pixels, normalised as
the network sees them, by one linear layer on the token of each patch.

Source: Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, "SimMIM: A Simple Framework for Masked Image Modeling", 2021,
https://arxiv.org/abs/2111.09886
Differs: the network is small by default, for images of 32 pixels, with positions that are fixed and added to the
patches; the paper's ViT has learned biases of relative positions and scaled layers, and its Swin is not supported. The
token begins as 0, as the first predictions do. The learning rate falls along a cosine.
Shortcut: a pixel is like its neighbours, so single hidden patches are interpolated. So whole squares are hidden.
"""

import math
from typing import Annotated, ClassVar, Unpack

from einops import repeat
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts.cubes import replace
from unlabeled.parts.heads import near_zero
from unlabeled.parts.hidden_patches import HiddenPatches
from unlabeled.parts.token_masks import numbers, pick, random_cells

__all__ = ["SimMIM"]


def loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference.

    Args:
        predicted: Float, shape (batch, hidden, numbers).
        targets: The same shape.
    """
    return (predicted - targets).abs().mean()


class SimMIM(HiddenPatches, Method[ImageEncoder]):
    """Replace squares of an image by a learned token and predict their pixels.

    Args:
        encoder: Network whose features are kept; in training it sees all patches, hidden ones as the learned token.
        mask: Fraction of the squares that are hidden, rounded up to whole squares.
        square: Patches on a side of a square; squares must fill the image. [default: 2, else 3, else 1]
        **views: How the views are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-gap-small", "batch_size": 128, "clip": 5.0}
    view_defaults = ViewOptions(crop=0.67, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny"}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        mask: Annotated[float, Range(above=0, below=1)] = 0.6,
        square: Count | None = None,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, token=True)
        divides = (number for number in (2, 3) if self.side % number == 0 and number < self.side)
        square = square or next(divides, 1)
        if self.side % square:
            raise UserError(f"square must divide the {self.side} patches on a side of an image, got {square}")
        self.square, self.squares = square, self.side // square
        self.hidden = math.ceil(mask * self.squares**2)
        if self.hidden == self.squares**2:
            raise UserError(
                f"mask must leave one of the {self.squares**2} squares of an image visible, got {mask}"
            )
        pixels = encoder.adapt.out_channels * encoder.patch_size**2
        self.head = near_zero(nn.Linear(encoder.trunk.dim, pixels))

    def prepare(self, data: Data) -> None:
        # The loss of predicting the mean colour.
        self.baseline.copy_(self.targets(self.views(data.sample(512))).abs().mean())

    def targets(self, images: Tensor) -> Tensor:
        """Normalised pixels of each patch, float, shape (batch, patches, numbers)."""
        return self.patches(self.encoder.adapt(images)).flatten(2)

    def mask(self, images: Tensor) -> Tensor:
        """Which patches are hidden, bool, shape (batch, patches), as many of each image."""
        squares = random_cells(len(images), self.squares**2, self.hidden, images.device)
        return repeat(
            squares,
            "b (row column) -> b (row down column right)",
            row=self.squares,
            down=self.square,
            right=self.square,
        )

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predictions of the hidden patches in order, float, shape (batch, hidden, numbers)."""
        return self.head(self.hidden_tokens(images, mask))

    def forward(self, batch: Batch) -> Tensor:
        images, mask = self.draw(batch)
        return loss(self.predict(images, mask), pick(self.targets(images), numbers(mask)))

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Tensor) -> dict[str, Tensor]:
        adapt, hidden = self.encoder.adapt, numbers(mask)
        colors = self.predict(images, mask).unflatten(2, (adapt.out_channels, -1))
        colors = (colors * adapt.std[:, None] + adapt.mean[:, None]).clamp(0, 1)
        seen = self.patches(adapt.channels(images))  # grey where the network sees grey
        return {"visible": replace(patches, hidden, 0.5), "completed": replace(seen, hidden, colors)}
