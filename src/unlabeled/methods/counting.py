"""Counting: count visual primitives so that the counts of an image's quarters add up to those of the whole.

Withheld: the quarters when the network sees the whole image, and the whole image when it sees a quarter. Predicted:
counts that agree between the two, and differ from those of other images.

Source: Noroozi, Pirsiavash, Favaro, "Representation Learning by Learning to Count", 2017,
https://arxiv.org/abs/1708.06734
Differs: the encoder is any network, with a head of two layers, the first of which has a norm. Crops vary in scale and
may be mirrored. Small tiles are enlarged until every weight of the encoder can learn from them. The optimizer is AdamW
with warm-up and cosine.
Shortcut: counts of zero fit every image, so the sums must differ from the counts of another image by a margin.
Downsampling leaves traces that quarters lack, so its kernel is drawn at random; lenses cause coloured fringes and
images differ in colour, so most are grey, either both images of a pair or neither; images differ in brightness and
contrast, so all tiles get the same brightness and contrast.
"""

from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions
from unlabeled.parts import gather, patches
from unlabeled.parts.augment import Views, apply
from unlabeled.parts.heads import classifier
from unlabeled.parts.padding import input_size
from unlabeled.parts.precision import full_precision
from unlabeled.parts.shrink import halvings, shrink

__all__ = ["Counting"]

GRID = 2


@full_precision
def distances(whole: Tensor, parts: Tensor, other: Tensor) -> Tensor:
    """How far the summed counts of the parts are from the counts of their image, and from those of another image.

    Args:
        whole: Counts of an image, float, shape (batch, counts).
        parts: Counts of its parts, float, shape (batch, parts, counts).
        other: Counts of another image, float, shape (batch, counts).

    Returns:
        Squared distances, float, shape (2, batch).
    """
    return (torch.stack([whole, other]) - parts.sum(1)).square().sum(2)


def another(batch: Batch) -> Batch:
    """Another sample of the batch for each sample, or that of the next process if this one has a single sample."""
    count = len(batch["image"])
    order = torch.arange(count).roll(int(torch.randint(1, max(2, count), ())))
    if count == 1 and gather.processes() > 1:
        order = torch.tensor([(gather.rank() + 1) % gather.processes()])
        batch = {name: gather.gather(value) for name, value in batch.items()}
    return {name: value[order.to(value.device)] for name, value in batch.items()}


class Counting(Method[ImageEncoder]):
    """Count visual primitives so that the counts of an image's quarters add up to those of the whole.

    The metrics `same` and `other` are the mean squared distances of the summed counts of the quarters from the counts
    of their own image and of another image.

    Args:
        encoder: Network whose features are kept; it sees a quarter, or the whole image at half the size.
        margin: Smallest squared distance that the counts of two images should have.
        counts: Number of visual primitives that are counted.
        hidden_dim: Width of the hidden layer of the head.
        normalize: Give every tile the same brightness and contrast.
        tile_size: Side in pixels to which tiles are resized for the encoder. [default: half the image, or larger where
            the encoder takes no such size or some of its weights would see only padding; a ViT's own size]
        **views: How the images are cropped, mirrored and converted to grayscale.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.5, gray=0.67, flip=0.5)
    defaults: ClassVar = {"batch_size": 128}
    example = "photos"
    halvings: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        margin: Positive = 10.0,
        counts: Count = 1000,
        hidden_dim: Count = 512,
        normalize: bool = True,
        tile_size: Count | None = None,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        check.at_least(4, image_size=encoder.image_size)
        size = encoder.image_size // GRID
        self.margin, self.normalize = margin, normalize
        self.tile_size = input_size(encoder, size, tile_size=tile_size)
        self.views = Views(GRID * size, **self.view_options(views))
        # With the default margin and counts, the first distances are of the order of the margin.
        self.head = classifier(encoder.dim, hidden_dim, counts, std=0.08 / counts**0.5)
        self.register_buffer("halvings", halvings(size), persistent=False)

    def chance(self, samples: int) -> float:
        return self.margin  # the lowest loss of counts that are the same for all images

    def embed_features(self, features: Tensor) -> Tensor:
        return F.relu(self.head(features))

    @torch.no_grad()
    def tiles(self, batch: Batch) -> Tensor:
        """An image and another one at half the size, then the quarters of the first.

        The other image is from another sample, grey if the first one is, and downsampled by the same kernel.

        Returns:
            Float in 0..1, shape (batch, 6, channels, size, size).
        """
        count, others = len(batch["image"]), another(batch)
        mine, theirs = self.views.draw(batch), self.views.draw(others)
        theirs.gray = mine.gray
        images, others = apply(batch["image"], mine), apply(others["image"], theirs)
        kernels = self.halvings[torch.randint(len(self.halvings), (count,), device=images.device)]
        small = torch.stack([shrink(images, kernels), shrink(others, kernels)], 1)
        return torch.cat([small, patches.cells(images, GRID)], 1)

    def count(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts of an image, of its quarters and of another image, the arguments of `distances`, from `tiles`."""
        flat = rearrange(tiles, "b n c h w -> (b n) c h w")
        if self.tile_size is not None:
            flat = F.interpolate(flat, self.tile_size, mode="bilinear", antialias=True)
        if self.normalize:
            flat = patches.standardize(flat, 0.5, 0.25)
        counts = rearrange(self.embed_features(self.encoder(flat)), "(b n) d -> b n d", n=tiles.shape[1])
        return counts[:, 0], counts[:, 2:], counts[:, 1]

    def forward(self, batch: Batch) -> Tensor:
        same, other = distances(*self.count(self.tiles(batch)))
        self.metrics = {"same": same.detach().mean(), "other": other.detach().mean()}
        return (same + (self.margin - other).clamp(min=0)).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        tiles = self.tiles(batch)
        whole, parts, other = self.count(tiles)
        spaced = F.pad(tiles[:, 2:], [1] * 4, value=1.0)
        rows = {
            "counts of the whole": whole,
            "summed counts of the quarters": parts.sum(1),
            "counts of the other image": other,
        }
        highest = torch.stack([*rows.values()]).amax((0, 2)).clamp(min=1e-6)[:, None]
        side = max(1, int(whole.shape[1] ** 0.5))
        charts = {
            name: (values / highest)[:, : side**2].unflatten(1, (1, side, side))
            for name, values in rows.items()
        }
        return {
            "whole": tiles[:, 0],
            "quarters": patches.assemble(spaced, GRID),
            "other image": tiles[:, 1],
        } | charts
