"""Patch dictionary: cluster small patches, and describe an image by the clusters that its patches resemble.

Withheld: nothing. Predicted: each whitened patch, from the one atom that is most like it or its negative. Seconds on
two cores; without a GPU the strongest start for a few thousand images.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html
Differs: each step sees fresh patches, and the atoms follow the sums of all steps, of which each counts half of the next
one, not those of one fixed set. Features are pooled on a grid of 3x3, not of 2x2, and pass a threshold both ways, as in
Coates, Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization", 2011.
Shortcut: none, as nothing is predicted, but flat patches would win: their contrast is normalised with a floor.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, NonNegative
from unlabeled.parts.dictionary import Dictionary, draw_patches
from unlabeled.parts.pictures import sheet

__all__ = ["PatchDictionary"]

SAMPLES = 1024
"""Images whose patches set the whitening."""


class PatchDictionary(Method[ImageEncoder]):
    """Cluster small patches, and describe an image by the clusters that its patches resemble.

    Args:
        encoder: Dictionary whose features are kept.
        patches: Patches drawn in each step, from all images of the batch.
        whitening: Variance added to every direction of the normalised patches before they are whitened.
    """

    encoder_needs = EncoderNeeds("is_dictionary", "be a dictionary such as dictionary-400", True)
    defaults: ClassVar = {"encoder": "dictionary-400", "steps": 40}
    smallest: ClassVar = {"patches": 200, "encoder": "dictionary-16"}

    def __init__(
        self, encoder: ImageEncoder, *, patches: Count = 50_000, whitening: NonNegative = 0.1
    ) -> None:
        super().__init__(encoder)
        self.patches = patches
        code = encoder.trunk
        self.dictionary = Dictionary(len(code.offset), code.numbers, eps=code.eps, whitening_eps=whitening)

    def chance(self, samples: int) -> float:
        return 1.0  # what a product of 0 leaves unexplained

    def prepare(self, data: Data) -> None:
        patches, mirrored = self._draw(data.sample(SAMPLES))
        both = patches if mirrored is None else torch.cat([patches, mirrored])
        self.dictionary.begin(both, self.encoder.trunk)

    def forward(self, batch: Batch) -> Tensor:
        return self.dictionary(*self._draw(batch), self.encoder.trunk)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images, the same with each patch drawn as its one atom, and the atoms that explain most of each."""
        images, adapt, width = self.encoder.inputs(batch), self.encoder.adapt, self.encoder.trunk.width
        rows, columns = (side // width for side in images.shape[2:])
        images = images[:, :, : rows * width, : columns * width]
        layout = "b c (row h) (column w) -> (b row column) (c h w)"
        patches = rearrange(adapt(images), layout, h=width, w=width)
        drawn, atoms = self.dictionary.redraw(patches, len(images))
        left, _, right = layout.partition(" -> ")
        drawn = rearrange(
            drawn, f"{right} -> {left}", h=width, w=width, b=len(images), row=rows, c=adapt.out_channels
        )
        drawn = drawn * adapt.std[:, None, None] + adapt.mean[:, None, None]
        atoms = rearrange(atoms, "b k (c h w) -> b k c h w", h=width, w=width)
        return {
            "image": images,
            "each patch as its atom": drawn.clamp(0, 1),
            "atoms it uses most": sheet(F.pad(atoms, (0, 1, 0, 1), value=1.0)),
        }

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Patches of a batch, and the same mirrored where mirror images count as the same."""
        images, code = self.encoder.adapt(self.encoder.inputs(batch)), self.encoder.trunk
        patches = draw_patches(images, (code.width, code.width), -(-self.patches // len(images)))
        return patches.flatten(1), patches.flip(3).flatten(1) if code.mirror else None
