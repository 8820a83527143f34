"""Mel dictionary: cluster spectrogram patches, and describe a sound by the clusters they resemble.

Withheld: nothing. Predicted: each whitened patch of all bands and a tenth of a second, as a multiple of the one atom
(cluster direction) that is most similar to it or its negative. Training takes seconds on one core.

Source: Salamon, Bello, "Unsupervised Feature Learning for Urban Sound Classification", 2015,
https://doi.org/10.1109/ICASSP.2015.7178954; Coates, Ng, "Learning Feature Representations with K-means", 2012,
https://doi.org/10.1007/978-3-642-35289-8_30
Differs: each step draws new patches, and the atoms follow a running sum in which a step counts half as much as the next
one. Bands are normalised over the data. The code is thresholded for both signs; its mean is taken over three parts of a
sound, its maximum over the whole sound.
Shortcut: none, as nothing is withheld; but noise in silence would dominate, so a constant is added to the variance
before contrast is normalised, and padding after the end of a sound is never sampled.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, NonNegative
from unlabeled.parts import ragged
from unlabeled.parts.dictionary import Dictionary, draw_patches
from unlabeled.parts.pictures import sheet, spectrogram

__all__ = ["MelDictionary"]

SAMPLES = 128
"""Sounds whose patches set the whitening."""
LONGEST = 15.0
"""Length in seconds of the crops of sounds that patches are drawn from, at most."""


class MelDictionary(Method[AudioEncoder]):
    """Cluster spectrogram patches, and describe a sound by the clusters they resemble.

    Args:
        encoder: Dictionary whose features are kept.
        patches: Number of patches drawn in each step, from all sounds of the batch.
        whitening: Variance added to every direction of the contrast-normalised patches before they are whitened.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("is_dictionary", "be a dictionary such as mel-dictionary-256", True)
    defaults: ClassVar = {"encoder": "mel-dictionary-256", "steps": 40, "batch_size": 64}
    smallest: ClassVar = {"patches": 200, "encoder": "mel-dictionary-16"}

    def __init__(
        self, encoder: AudioEncoder, *, patches: Count = 10_000, whitening: NonNegative = 1.0
    ) -> None:
        super().__init__(encoder)
        self.patches = patches
        code = encoder.trunk
        self.dictionary = Dictionary(len(code.offset), code.numbers, eps=code.eps, whitening_eps=whitening)

    def chance(self, samples: int) -> float:
        return 1.0  # the fraction that is unexplained if all products are 0

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(LONGEST)

    def prepare(self, data: Sounds) -> None:
        self.dictionary.begin(self._draw(data.sample(SAMPLES)), self.encoder.trunk)

    def forward(self, batch: Batch) -> Tensor:
        return self.dictionary(self._draw(batch), code=self.encoder.trunk)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Spectrograms, their reconstruction from one atom per patch, and the atoms that explain most of each sound."""
        bands, frames, _ = self._spectra(batch)
        width, bins = self.encoder.trunk.width, bands.shape[1]
        bands = bands[:, :, : bands.shape[2] // width * width]
        patches = rearrange(bands, "b c (n w) -> (b n) (c w)", w=width)
        output, atoms = self.dictionary.reconstruct(patches, len(bands))
        output = rearrange(output, "(b n) (c w) -> b c (n w)", b=len(bands), w=width)
        output = output * ragged.real(frames, bands.shape[2])[:, None]
        tiles = rearrange(atoms, "b k (c w) -> (b k) c w", c=bins)
        tiles = rearrange(spectrogram(tiles, 0, 1), "(b k) c h w -> b k c h w", b=len(bands))
        return {
            "sound": spectrogram(bands, -2, 2),
            "one atom per patch": spectrogram(output, -2, 2),
            "most used atoms": sheet(F.pad(tiles, (0, 1, 0, 1), value=1.0)),
        }

    def _spectra(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Bands, float, shape (batch, bins, frames), and numbers of real frames and patches, int64, shape (batch,)."""
        bands, frames = self.encoder.adapt(self.encoder.inputs(batch))
        x, counts = self.encoder.trunk.patches(bands, frames)
        return x, frames, counts

    def _draw(self, batch: Batch) -> Tensor:
        """Patches of a batch, all of which lie within their sounds, float, shape (patches, numbers)."""
        bands, _, counts = self._spectra(batch)
        share = -(-self.patches // len(bands))
        return draw_patches(bands, self.encoder.trunk.sides, share, counts).flatten(1)
