"""Video dictionary: cluster space-time cubes, and describe a video by the clusters they resemble.

Withheld: nothing. Predicted: each whitened cube of pixels and frames, as a multiple of the one atom (cluster direction)
that is most similar to it or its negative. Training takes seconds on two cores.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html
Differs: patches extend over several frames, and codes are averaged over the time of a clip. Each step draws new cubes,
and the atoms follow a running sum in which a step counts half as much as the next one. Features are pooled on a grid of
3x3, not 2x2, and thresholded for both signs.
Shortcut: none, as nothing is withheld; but noise in flat cubes would dominate, so a constant is added to the variance
before contrast is normalised. With a still camera, most cubes show no motion, so few atoms do.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.data.video.data import Videos
from unlabeled.encoders.video import Clips
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, NonNegative
from unlabeled.parts.dictionary import Dictionary, draw_patches
from unlabeled.parts.pictures import sheet, strip

__all__ = ["VideoDictionary"]

SAMPLES = 1024
"""Clips whose cubes set the whitening."""
SHOWN = 16
"""Most atoms that a picture shows of each clip."""


class VideoDictionary(Method[Clips]):
    """Cluster space-time cubes, and describe a video by the clusters they resemble.

    Args:
        encoder: Dictionary whose features are kept.
        cubes: Number of cubes drawn in each step, from all clips of the batch.
        whitening: Variance added to every direction of the contrast-normalised cubes before they are whitened.
    """

    kind = "video"
    encoder_needs = EncoderNeeds("is_dictionary", "be a dictionary such as cube-dictionary-256", True)
    defaults: ClassVar = {"encoder": "cube-dictionary-256", "steps": 40}
    smallest: ClassVar = {"cubes": 200, "encoder": "cube-dictionary-16"}

    def __init__(self, encoder: Clips, *, cubes: Count = 20_000, whitening: NonNegative = 0.1) -> None:
        super().__init__(encoder)
        self.cubes, code = cubes, encoder.trunk
        self.dictionary = Dictionary(len(code.offset), code.numbers, eps=code.eps, whitening_eps=whitening)

    def chance(self, samples: int) -> float:
        return 1.0  # the fraction that is unexplained if all products are 0

    def training_view(self, data: Videos) -> Videos:
        return data.clips(self.encoder.trunk.frames)

    def prepare(self, data: Videos) -> None:
        self.dictionary.begin(self._draw(data.sample(SAMPLES)), self.encoder.trunk)

    def forward(self, batch: Batch) -> Tensor:
        return self.dictionary(self._draw(batch), code=self.encoder.trunk)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The first frames, their reconstruction from one atom per cube, and the atoms that explain most of them."""
        code, adapt = self.encoder.trunk, self.encoder.adapt
        depth, width = code.frames, code.width
        x = code.lengthen(self._volumes(batch))[:, :, :depth]
        rows, columns = (side // width for side in x.shape[3:])
        x = x[..., : rows * width, : columns * width]
        layout = "b c t (row h) (column w) -> (b row column) (c t h w)"
        output, atoms = self.dictionary.reconstruct(rearrange(x, layout, h=width, w=width), len(x), SHOWN)
        left, _, right = layout.partition(" -> ")
        sizes = {"b": len(x), "row": rows, "t": depth, "h": width, "w": width}
        output = rearrange(output, f"{right} -> {left}", **sizes)
        colors = (
            rearrange(part, "b c t h w -> b t c h w") * adapt.std[:, None, None] + adapt.mean[:, None, None]
            for part in (x, output)
        )
        true, output = (strip(part.clamp(0, 1)) for part in colors)
        tiles = rearrange(atoms, "b k (c t h w) -> b k c h (t w)", t=depth, h=width, w=width)
        return {
            "video": true,
            "one atom per cube": output,
            "most used atoms": sheet(F.pad(tiles, (0, 1, 0, 1), value=1.0)),
        }

    def _volumes(self, batch: Batch) -> Tensor:
        return self.encoder.volumes(self.encoder.inputs(batch))

    def _draw(self, batch: Batch) -> Tensor:
        """Cubes of a batch, float, shape (cubes, numbers)."""
        x, sides = self.encoder.trunk.lengthen(self._volumes(batch)), self.encoder.trunk.sides
        return draw_patches(x, sides, -(-self.cubes // len(x))).flatten(1)
