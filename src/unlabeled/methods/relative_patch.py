"""Relative patch location: predict where a patch of an image lies relative to another one.

Withheld: the position of the second patch. Predicted: which of the eight neighbours of the first patch it is.

Source: Doersch, Gupta, Efros, "Unsupervised Visual Representation Learning by Context Prediction", 2015,
https://arxiv.org/abs/1505.05192
Differs: patches are as large as a grid of three by three with gaps allows, not 96 pixels; the central one is paired
with all eight, in both orders. Crops vary in scale. The encoder's pooling replaces the layer fc6 of each patch, and the
norms of the head have a learned scale and shift. Small patches are enlarged until every weight of the encoder can learn
from them. Dropped channels become noise around mid-grey. The optimizer is AdamW, not SGD with high momentum.
Shortcut: edges and textures continue from patch to patch, so there are gaps and every patch is shifted at random;
lenses displace the colour channels towards the border, which reveals where a patch was, so all channels but one are
dropped, or the green-magenta axis is projected out; some patches are pixelated, so that sharpness reveals nothing.
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
"""Patches of the grid, numbered row by row."""
COARSEST = 100 / 96**2
"""Smallest fraction of the pixels that pixelation leaves of a patch: 100 of the paper's 96 x 96."""


def layout(size: int, gap: float, shift: float) -> tuple[int, int, int]:
    """Side, gap and largest shift, in pixels, of the largest patches that fit into the image as a three-by-three grid.

    Args:
        size: Side of the image in pixels.
        gap: Space between patches, relative to their side.
        shift: Largest shift of a patch, relative to its side; unless it is 0, at least a pixel. Gaps, if there are
            any, are wide enough to keep shifted patches apart.
    """
    for side in range(size // GRID, 1, -1):
        largest = max(1, round(shift * side)) if shift else 0
        space = max(int(gap * side + 0.5), 2 * largest + 1) if gap else 0
        if GRID * side + (GRID - 1) * space + 2 * largest <= size:
            return side, space, largest
    return 1, int(gap > 0), 0


COLORS = {"drop": drop_channels, "project": drop_aberration, "keep": torch.Tensor.clone}


class RelativePatch(Method[ImageEncoder]):
    """Predict where a patch of an image lies relative to another one.

    Args:
        encoder: Network whose features are kept; it sees one patch at a time.
        gap: Space between neighbouring patches, relative to their side.
        shift: Largest random shift of a patch, relative to its side.
        color: What happens to the colours of a patch: drop all channels but one, project out the green-magenta axis,
            or keep them. Images without exactly three channels keep theirs.
        pixelate: Probability that a patch is pixelated.
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
                f"gap and shift must leave patches of at least 2 pixels in images of {encoder.image_size}, got gap "
                f"{gap:g} and shift {shift:g}"
            )
        self.change = COLORS[color if encoder.in_channels == 3 else "keep"]
        self.pixelate, self.patch_size = pixelate, input_size(encoder, self.side, patch_size=patch_size)
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = classifier(2 * encoder.dim, head_dim, len(OUTER))
        self.register_buffer("pixelations", pixelations(self.side), persistent=False)

    def chance(self, samples: int) -> float:
        return math.log(len(OUTER))

    def corners(self, images: Tensor) -> Tensor:
        """Top-left corners of the nine patches in pixels, row by row, int64, shape (batch, 9, 2)."""

        def draw(largest: int, *shape: int) -> Tensor:
            return torch.randint(largest + 1, (len(images), *shape, 2), device=images.device)

        room = images.shape[3] - GRID * self.side - (GRID - 1) * self.space - 2 * self.shift
        cells = torch.cartesian_prod(*[torch.arange(GRID, device=images.device)] * 2)
        return draw(room, 1) + cells * (self.side + self.space) + draw(2 * self.shift, GRID**2)

    def cut(self, images: Tensor) -> Tensor:
        """The nine patches of each image, row by row, unchanged, float, shape (batch * 9, channels, side, side)."""
        corners = self.corners(images).flatten(0, 1)
        return patches.crop(images.repeat_interleave(GRID**2, 0), corners, self.side)

    @torch.no_grad()
    def disguise(self, patches: Tensor) -> Tensor:
        """Pixelate some patches, and change the colours of all; same shape."""
        fraction = torch.empty(len(patches), device=patches.device).uniform_(COARSEST, 1)
        coarse = torch.rand_like(fraction) < self.pixelate
        size = torch.where(coarse, (fraction.sqrt() * self.side).round().clamp(min=1), self.side).long()
        matrix = self.pixelations[size - 1][:, None]
        with torch.autocast(patches.device.type, enabled=False):  # half precision would change colours
            return self.change(matrix @ patches @ matrix.mT)

    def logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the position of one patch relative to another, each float, shape (batch, 8, 8).

        Args:
            patches: Nine of each image, float, shape (batch * 9, channels, side, side).

        Returns:
            Those of the eight neighbours relative to the centre, and of the centre relative to them.
        """
        if self.patch_size is not None:
            patches = F.interpolate(patches, self.patch_size, mode="bilinear", antialias=True)
        features = rearrange(self.encoder(patches), "(b n) d -> b n d", n=GRID**2)
        others = features[:, OUTER]
        center = features[:, CENTER, None].expand_as(others)
        pairs = torch.stack([torch.cat([center, others], 2), torch.cat([others, center], 2)])
        of_others, of_center = self.head(pairs.flatten(0, 2)).float().unflatten(0, pairs.shape[:3])
        return of_others, of_center

    def forward(self, batch: Batch) -> Tensor:
        of_others, of_center = self.logits(self.disguise(self.cut(self.views(batch))))
        positions = torch.arange(len(OUTER), device=of_others.device).expand(len(of_others), -1)
        logits = torch.cat([of_others, of_center]).flatten(0, 1)
        labels = torch.cat([positions, len(OUTER) - 1 - positions]).flatten()
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.views(batch)
        cells = self.disguise(self.cut(images))
        positions = torch.tensor(OUTER, device=images.device)[self.logits(cells)[0].argmax(2)]
        cells = F.pad(rearrange(cells.clamp(0, 1), "(b n) c h w -> b n c h w", n=GRID**2), [1] * 4, value=1.0)
        # Patches that are predicted at one position are averaged.
        weights = F.one_hot(positions, GRID**2).to(cells.dtype)
        arranged = torch.einsum("bop,bochw->bpchw", weights, cells[:, OUTER])
        arranged = arranged / weights.sum(1)[..., None, None, None].clamp(min=1)
        arranged[:, CENTER] = cells[:, CENTER]
        rows = {"patches": cells, "arranged as predicted": arranged}
        return {"image": images} | {name: patches.assemble(row, GRID) for name, row in rows.items()}
