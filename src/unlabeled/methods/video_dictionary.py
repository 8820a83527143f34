"""Video dictionary: cluster small cubes of a few frames, and describe a video by the clusters it resembles.

Withheld: nothing. Predicted: each whitened cube of pixels and frames, from the one atom that is most like it or its
negative. Seconds on two cores.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html
Differs: patches have frames too, and codes are averaged over the time of a clip. Each step sees fresh cubes, and the
atoms follow the sums of all steps, of which each counts half of the next one. Features are pooled on a grid of 3x3, not
of 2x2, and pass a threshold both ways.
Shortcut: none, as nothing is predicted, but flat cubes would win: their contrast is normalised with a floor. Most cubes
of a still camera do not move, so atoms of motion are few.
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


class VideoDictionary(Method[Clips]):
    """Cluster small cubes of a few frames, and describe a video by the clusters that they resemble.

    Args:
        encoder: Dictionary whose features are kept.
        cubes: Cubes drawn in each step, from all clips of the batch.
        whitening: Variance added to every direction of the normalised cubes before they are whitened.
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
        return 1.0  # what a product of 0 leaves unexplained

    def training_view(self, data: Videos) -> Videos:
        return data.clips(self.encoder.trunk.frames)

    def prepare(self, data: Videos) -> None:
        self.dictionary.begin(self._draw(data.sample(SAMPLES)), self.encoder.trunk)

    def forward(self, batch: Batch) -> Tensor:
        return self.dictionary(self._draw(batch), code=self.encoder.trunk)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The first frames, the same with each cube drawn as its one atom, and the atoms that explain most of each."""
        code, adapt = self.encoder.trunk, self.encoder.adapt
        depth, width = code.frames, code.width
        x = code.lengthen(self._volumes(batch))[:, :, :depth]
        rows, columns = (side // width for side in x.shape[3:])
        x = x[..., : rows * width, : columns * width]
        layout = "b c t (row h) (column w) -> (b row column) (c t h w)"
        drawn, atoms = self.dictionary.redraw(rearrange(x, layout, h=width, w=width), len(x), SHOWN)
        left, _, right = layout.partition(" -> ")
        sizes = {"b": len(x), "row": rows, "t": depth, "h": width, "w": width}
        drawn = rearrange(drawn, f"{right} -> {left}", **sizes)
        colors = (
            rearrange(part, "b c t h w -> b t c h w") * adapt.std[:, None, None] + adapt.mean[:, None, None]
            for part in (x, drawn)
        )
        true, drawn = (strip(part.clamp(0, 1)) for part in colors)
        tiles = rearrange(atoms, "b k (c t h w) -> b k c h (t w)", t=depth, h=width, w=width)
        return {
            "video": true,
            "each cube as its atom": drawn,
            "atoms it uses most": sheet(F.pad(tiles, (0, 1, 0, 1), value=1.0)),
        }

    def _volumes(self, batch: Batch) -> Tensor:
        return self.encoder.volumes(self.encoder.inputs(batch))

    def _draw(self, batch: Batch) -> Tensor:
        """Cubes of a batch, float, shape (cubes, numbers)."""
        x, sides = self.encoder.trunk.lengthen(self._volumes(batch)), self.encoder.trunk.sides
        return draw_patches(x, sides, -(-self.cubes // len(x))).flatten(1)
