"""RotNet: tell by which angle an image was turned, which takes knowing what it shows.

Withheld: the angle. Predicted: its number among four, two or eight.

Source: Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations",
2018, https://arxiv.org/abs/1803.07728
Differs: square crops are resized, where the paper shifts images on a border of zeros; the eight angles stand at 22.5
+ 45 k degrees, where the upright ones would be the sharp ones. The weights move by the loop's AdamW with warm-up and
cosine; the paper has SGD with Nesterov's momentum and steps.
Shortcut: quarter turns are exact, so no interpolation tells them apart, and crops are square, since a squeezed
one would tell its axis. Of eight angles only a disc is seen, so no corners tell, but two mirror-image patterns of
resampling remain, which give away whether the number is even or odd even on smooth images: prefer four. Images
are mirrored before they turn: afterwards would make 90 and 270 degrees the same. Images without an upright
position (aerial, microscopic, round) have nothing to learn here.
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

__all__ = ["RotNet"]

ANGLES = {
    "4": (0.0, 90.0, 180.0, 270.0),
    "0-180": (0.0, 180.0),
    "90-270": (90.0, 270.0),
    "8": tuple(22.5 + 45.0 * number for number in range(8)),
}


def turned(images: Tensor, angle: float) -> Tensor:
    """Images turned counter-clockwise, exactly for multiples of 90 degrees.

    Args:
        images: Float in 0..1, shape (batch, channels, size, size).
        angle: Degrees.

    Returns:
        The same shape; between the quarter turns mid-gray outside the inscribed disc.
    """
    quarters = round(angle / 90)
    rest = angle - 90 * quarters
    if rest:
        images = disc(rotate(images, torch.full((len(images),), rest, device=images.device)))
    return torch.rot90(images, quarters, (2, 3))


def disc(images: Tensor) -> Tensor:
    """Images, shape (batch, channels, size, size), mid-gray but for the inscribed disc less one pixel."""
    size = images.shape[3]
    offsets = torch.arange(size, device=images.device) - (size - 1) / 2
    inside = offsets.square() + offsets[:, None].square() <= (size / 2 - 1) ** 2
    return images.where(inside, 0.5)


class RotNet(Method[ImageEncoder]):
    """Tell by which angle an image was turned.

    Args:
        encoder: Network whose features are kept.
        rotations: Angles to distinguish: "4" quarter turns, two of those, or "8" eighths of a turn.
        **views: How the images are cropped and mirrored, before they are turned.
    """

    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 8, "lr": 2e-3}

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
        self.head = nn.Linear(encoder.dim, len(self.angles))
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def chance(self, samples: int) -> float:
        return math.log(len(self.angles))

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        copies = torch.cat([turned(images, angle) for angle in self.angles])
        labels = repeat(torch.arange(len(self.angles), device=images.device), "k -> (k b)", b=len(images))
        logits = self.head(self.encoder(copies)).float()
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        copies = torch.stack([turned(images, angle) for angle in self.angles], dim=1)
        chosen = torch.arange(len(images), device=images.device) % len(self.angles)
        shown = copies[torch.arange(len(images)), chosen]
        predicted = self.head(self.encoder(shown)).argmax(dim=1)
        back = torch.stack([turned(shown, -angle) for angle in self.angles], dim=1)
        return {"image": images, "turned": shown, "turned back": back[torch.arange(len(images)), predicted]}
