"""Relative patch location: predict on which side of a patch another patch of the same image lies.

Withheld: where the second patch lies. Predicted: which of the eight neighbours of the first it is.

Source: Doersch, Gupta, Efros, "Unsupervised Visual Representation Learning by Context Prediction", 2015,
https://arxiv.org/abs/1505.05192
Differs: patches are as large as a grid of three by three with gaps allows, not 96 pixels; the central one is compared
with all eight, in both orders. Crops vary in scale. The encoder's pooling replaces the layer fc6 of each patch, and the
norms of the head are scaled and shifted. Small patches are enlarged until every weight of the encoder can learn from
them. Noise surrounds mid-grey where channels are dropped. The optimizer is AdamW, not SGD with high momentum.
Shortcut: edges and textures continue from patch to patch, so there are gaps and every patch is shifted at random;
lenses displace the colour channels towards the border, which tells where a patch was, so all channels but one are
dropped, or the differences between green and magenta; some patches are coarse, so that sharpness tells nothing.
"""

import math
from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, NonNegative, ViewOptions
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.color import drop_aberration, drop_channels
from unlabeled.parts.heads import classifier
from unlabeled.parts.padding import input_size
from unlabeled.parts.shrink import pixelations

__all__ = ["RelativePatch"]

GRID = 3
CENTER, OUTER = 4, [0, 1, 2, 3, 5, 6, 7, 8]
"""Patches, counted row by row."""
COARSEST = 100 / 96**2
"""Smallest fraction of the pixels of a patch that pixelation leaves: 100 of those of the paper."""


def layout(size: int, gap: float, shift: float) -> tuple[int, int, int]:
    """Side, gap and largest shift in pixels of the largest patches of which a grid of three by three fits.

    Args:
        size: Side of the image in pixels.
        gap: Space between patches, relative to their side.
        shift: Largest shift of a patch, relative to its side; at least a pixel, and patches stay apart.
    """
    for side in range(size // GRID, 1, -1):
        most = max(1, round(shift * side)) if shift else 0
        space = max(int(gap * side + 0.5), 2 * most + 1) if gap else 0
        if GRID * side + (GRID - 1) * space + 2 * most <= size:
            return side, space, most
    return 1, int(gap > 0), 0


COLORS = {"drop": drop_channels, "project": drop_aberration, "keep": torch.Tensor.clone}


class RelativePatch(Method[ImageEncoder]):
    """Predict on which side of a patch another patch of the same image lies.

    Args:
        encoder: Network whose features are kept; it sees one patch at a time.
        gap: Space between neighbouring patches, relative to their side.
        shift: Largest random shift of a patch, relative to its side.
        color: How the colours of a patch are changed: all channels but one are dropped, or the axis from green to
            magenta is projected away, or all are kept. Images of other than three channels are left as they are.
        pixelate: Probability that a patch is made coarse.
        patch_size: Side in pixels to which patches are resized for the encoder. [default: as cut, or larger where the
            encoder takes no such size or some of its weights would see only padding; a ViT's own size]
        head_dim: Width of the layer that sees both patches.
        **views: How the images are cropped.
    """

    view_defaults = ViewOptions(crop=0.5)
    defaults: ClassVar = {"batch_size": 128}
    example = "photos"
    pixelations: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        gap: NonNegative = 0.5,
        shift: Fraction = 0.07,
        color: Literal["drop", "project", "keep"] = "drop",
        pixelate: Fraction = 0.33,
        patch_size: Count | None = None,
        head_dim: Count = 512,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        check.at_least(12, image_size=encoder.image_size)
        self.side, self.space, self.shift = layout(encoder.image_size, gap, shift)
        if self.side < 2:
            raise UserError(
                f"gap and shift must leave patches of 2 pixels in images of {encoder.image_size}, got gap {gap:g} and "
                f"shift {shift:g}"
            )
        self.change = COLORS[color if encoder.in_channels == 3 else "keep"]
        self.pixelate, self.patch_size = pixelate, input_size(encoder, self.side, patch_size=patch_size)
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = classifier(2 * encoder.dim, head_dim, len(OUTER))
        self.register_buffer("pixelations", pixelations(self.side), persistent=False)

    def chance(self, samples: int) -> float:
        return math.log(len(OUTER))

    def corners(self, images: Tensor) -> Tensor:
        """Top and left of nine patches in pixels, row by row, int64, shape (batch, 9, 2)."""

        def draw(most: int, *shape: int) -> Tensor:
            return torch.randint(most + 1, (len(images), *shape, 2), device=images.device)

        room = images.shape[3] - GRID * self.side - (GRID - 1) * self.space - 2 * self.shift
        cells = torch.cartesian_prod(*[torch.arange(GRID, device=images.device)] * 2)
        return draw(room, 1) + cells * (self.side + self.space) + draw(2 * self.shift, GRID**2)

    def cut(self, images: Tensor) -> Tensor:
        """Nine patches of each image, row by row, as they are, float, shape (batch * 9, channels, side, side)."""
        corners = self.corners(images).flatten(0, 1)
        return patches.crop(images.repeat_interleave(GRID**2, 0), corners, self.side)

    @torch.no_grad()
    def disguise(self, patches: Tensor) -> Tensor:
        """Make some patches coarse, and change the colours of all; same shape."""
        fraction = torch.empty(len(patches), device=patches.device).uniform_(COARSEST, 1)
        coarse = torch.rand_like(fraction) < self.pixelate
        size = torch.where(coarse, (fraction.sqrt() * self.side).round().clamp(min=1), self.side).long()
        matrix = self.pixelations[size - 1][:, None]
        with torch.autocast(patches.device.type, enabled=False):  # half precision would change colours
            return self.change(matrix @ patches @ matrix.mT)

    def logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the place of one patch beside another, each float, shape (batch, 8, 8).

        Args:
            patches: Nine of each image, float, shape (batch * 9, channels, side, side).

        Returns:
            Those of the eight neighbours beside the centre, and of the centre beside them.
        """
        if self.patch_size is not None:
            patches = F.interpolate(patches, self.patch_size, mode="bilinear", antialias=True)
        features = rearrange(self.encoder(patches), "(b n) d -> b n d", n=GRID**2)
        others = features[:, OUTER]
        center = features[:, CENTER, None].expand_as(others)
        pairs = torch.stack([torch.cat([center, others], 2), torch.cat([others, center], 2)])
        there, back = self.head(pairs.flatten(0, 2)).float().unflatten(0, pairs.shape[:3])
        return there, back

    def forward(self, batch: Batch) -> Tensor:
        there, back = self.logits(self.disguise(self.cut(self.views(batch))))
        places = torch.arange(len(OUTER), device=there.device).expand(len(there), -1)
        logits = torch.cat([there, back]).flatten(0, 1)
        labels = torch.cat([places, len(OUTER) - 1 - places]).flatten()
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.views(batch)
        shown = self.disguise(self.cut(images))
        places = torch.tensor(OUTER, device=images.device)[self.logits(shown)[0].argmax(2)]
        shown = F.pad(rearrange(shown.clamp(0, 1), "(b n) c h w -> b n c h w", n=GRID**2), [1] * 4, value=1.0)
        chosen = F.one_hot(places, GRID**2).to(shown.dtype)  # where several are put at one place, their mean
        put = torch.einsum("bop,bochw->bpchw", chosen, shown[:, OUTER])
        put = put / chosen.sum(1)[..., None, None, None].clamp(min=1)
        put[:, CENTER] = shown[:, CENTER]
        rows = {"patches": shown, "put where predicted": put}
        return {"image": images} | {name: patches.assemble(row, GRID) for name, row in rows.items()}
