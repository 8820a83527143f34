"""Patch dictionary: cluster small patches, and describe an image by the clusters that its patches resemble.

Withheld: nothing. Predicted: each whitened patch, as a multiple of the one atom (cluster direction) that is most
similar to it or its negative. Training takes seconds on two cores; without a GPU, this is the strongest start for a few
thousand images.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html; the second layer of dictionary2-400: Coates, Ng, "Selecting Receptive
Fields in Deep Networks", 2011, https://neurips.cc/virtual/2011/poster/2794
Differs: each step draws new patches, and the atoms follow a running sum in which a step counts half as much as the next
one, where the paper has one fixed set of patches. Features are pooled on a grid of 3x3, not 2x2, and thresholded for
both signs, as in Coates, Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization",
2011. A second layer learns in the second half of the training, from eight groups of 64 maps whose responses correlate
most.
Shortcut: none, as nothing is withheld; but noise in flat patches would dominate, so a constant is added to the variance
before contrast is normalised.
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
from unlabeled.parts.group_dictionaries import GroupDictionaries
from unlabeled.parts.pictures import sheet

__all__ = ["PatchDictionary"]

SAMPLES = 1024
"""Images whose patches set the whitening."""
SECOND_SAMPLES = 256
"""Images whose maps set the second layer before the first step."""
HALFWAY = 0.5
"""Progress of the training from which on a second layer learns, and the first one no more."""


class PatchDictionary(Method[ImageEncoder]):
    """Cluster small patches, and describe an image by the clusters that its patches resemble.

    Args:
        encoder: Dictionary whose features are kept, such as dictionary-400, or dictionary2-400 with two layers.
        patches: Number of patches drawn in each step, from all images of the batch.
        whitening: Variance added to every direction of the contrast-normalised patches before they are whitened.
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
        self.second = GroupDictionaries(code.second, patches, whitening) if code.second else None

    def chance(self, samples: int) -> float:
        return 1.0  # the fraction that is unexplained if all products are 0

    @property
    def changes_at(self) -> float | None:
        """Where the second layer begins to learn."""
        return None if self.second is None else HALFWAY

    def prepare(self, data: Data) -> None:
        patches, mirrored = self._draw(data.sample(SAMPLES))
        both = patches if mirrored is None else torch.cat([patches, mirrored])
        self.dictionary.begin(both, self.encoder.trunk)
        # The second layer begins anew after half of the training, if that has as many steps.
        if self.second is not None:
            self.second.begin(self._maps(data.sample(SECOND_SAMPLES)), self.encoder.trunk.second)

    def forward(self, batch: Batch) -> Tensor:
        second = self.second
        self.dictionary.train(self.training and not (second and second.due))
        first = self.dictionary(*self._draw(batch), self.encoder.trunk)
        if second is None:
            return first
        if not second.due:
            return (first + 1) / 2  # so that what both layers leave unexplained does not rise later
        return (first + second(self._maps(batch), self.encoder.trunk.second)) / 2

    def after_step(self, progress: float) -> None:
        if self.second is not None and progress >= HALFWAY:
            self.second.due.fill_(True)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images, their reconstruction from one atom per patch, and the atoms that explain most of each image."""
        images, adapt, width = self.encoder.inputs(batch), self.encoder.adapt, self.encoder.trunk.width
        rows, columns = (side // width for side in images.shape[2:])
        images = images[:, :, : rows * width, : columns * width]
        layout = "b c (row h) (column w) -> (b row column) (c h w)"
        patches = rearrange(adapt(images), layout, h=width, w=width)
        output, atoms = self.dictionary.reconstruct(patches, len(images))
        left, _, right = layout.partition(" -> ")
        output = rearrange(
            output, f"{right} -> {left}", h=width, w=width, b=len(images), row=rows, c=adapt.out_channels
        )
        output = output * adapt.std[:, None, None] + adapt.mean[:, None, None]
        atoms = rearrange(atoms, "b k (c h w) -> b k c h w", h=width, w=width)
        return {
            "image": images,
            "one atom per patch": output.clamp(0, 1),
            "most used atoms": sheet(F.pad(atoms, (0, 1, 0, 1), value=1.0)),
        }

    @torch.no_grad()
    def _maps(self, batch: Batch) -> Tensor:
        """What the second layer sees of a batch, float, shape (batch, maps, rows, columns)."""
        return self.encoder.trunk.code(self.encoder.adapt(self.encoder.inputs(batch)))

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Patches of a batch, and their mirror images if an image and its mirror image are treated alike."""
        images, code = self.encoder.adapt(self.encoder.inputs(batch)), self.encoder.trunk
        patches = draw_patches(images, (code.width, code.width), -(-self.patches // len(images)))
        return patches.flatten(1), patches.flip(3).flatten(1) if code.mirror else None
