"""RotNet: predict by which angle an image was rotated, which takes knowing what it shows.

Withheld: the angle. Predicted: which of four, two or eight angles it is.

Source: Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations",
2018, https://arxiv.org/abs/1803.07728
Differs: square crops are resized, where the paper shifts images on a border of zeros; the eight angles are 22.5 + 45 k
degrees, since upright ones would be the only sharp ones. The optimizer is AdamW with warm-up and cosine, not SGD with
Nesterov's momentum and steps.
Shortcut: quarter turns are exact, so no interpolation identifies them, and crops are square, since a squeezed one would
reveal its axis. Of eight angles only a disc is visible, so no corners help, but two mirror-image patterns of resampling
remain, which reveal whether the index is even or odd even on smooth images: prefer four. Images are mirrored before
they are rotated: afterwards would make 90 and 270 degrees the same. Images without an upright position (aerial,
microscopic, round) have nothing to learn here.
"""

import math
from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import ViewOptions
from unlabeled.parts.augment import Views, rotate
from unlabeled.parts.heads import near_zero

__all__ = ["RotNet"]

ANGLES = {
    "4": (0.0, 90.0, 180.0, 270.0),
    "0-180": (0.0, 180.0),
    "90-270": (90.0, 270.0),
    "8": tuple(22.5 + 45.0 * number for number in range(8)),
}


def turn(images: Tensor, angle: float) -> Tensor:
    """Rotate images counter-clockwise, exactly for multiples of 90 degrees.

    Args:
        images: Float in 0..1, shape (batch, channels, size, size).
        angle: Degrees.

    Returns:
        The same shape; between the quarter turns mid-grey outside the inscribed disc, less one pixel.
    """
    quarters = round(angle / 90)
    rest = angle - 90 * quarters
    if rest:
        images = rotate(images, torch.full((len(images),), rest, device=images.device))
        size = images.shape[3]
        offsets = torch.arange(size, device=images.device) - (size - 1) / 2
        inside = offsets.square() + offsets[:, None].square() <= (size / 2 - 1) ** 2
        images = images.where(inside, 0.5)
    return torch.rot90(images, quarters, (2, 3))


class RotNet(Method[ImageEncoder]):
    """Predict by which angle an image was rotated.

    Args:
        encoder: Network whose features are kept.
        rotations: Angles to distinguish: "4" quarter turns, two of those, or "8" eighths of a turn.
        **views: How the images are cropped and mirrored, before they are turned.
    """

    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    defaults: ClassVar = {"batch_size": 128}  # as in the paper; the network sees four copies of each image
    recipe: ClassVar = {"batch_size": 256, "epochs": 8, "lr": 2e-3}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        rotations: Literal["4", "0-180", "90-270", "8"] = "4",
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.angles = ANGLES[rotations]
        self.views = Views(encoder.image_size, aspect=1, **self.view_options(views))
        self.head = near_zero(nn.Linear(encoder.dim, len(self.angles)))

    def chance(self, samples: int) -> float:
        return math.log(len(self.angles))

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        copies = torch.cat([turn(images, angle) for angle in self.angles])
        labels = repeat(torch.arange(len(self.angles), device=images.device), "k -> (k b)", b=len(images))
        logits = self.head(self.encoder(copies)).float()
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        rows = torch.arange(len(images), device=images.device)
        copies = torch.stack([turn(images, angle) for angle in self.angles], dim=1)
        turned = copies[rows, rows % len(self.angles)]
        predicted = self.head(self.encoder(turned)).argmax(dim=1)
        back = torch.stack([turn(turned, -angle) for angle in self.angles], dim=1)
        return {"image": images, "turned": turned, "turned back": back[rows, predicted]}
