"""Networks of one layer of atoms for sounds: how similar every patch of a spectrogram is to each atom.

Source: Salamon, Bello, "Unsupervised Feature Learning for Urban Sound Classification", 2015,
https://doi.org/10.1109/ICASSP.2015.7178954
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders.filters import FLOOR, Filters
from unlabeled.parts import ragged

__all__ = ["MelCode", "mel_code"]

PATTERN = re.compile(r"mel-dictionary-([1-9][0-9]{0,4})(?:-([1-9][0-9]?))?")
FRAMES = 10
"""Frames of a patch if the name does not say: a tenth of a second."""
SEGMENTS = 3
ENTRIES = 2**23
"""Size of the code in memory at once; that of a single sound may be larger."""


class MelCode(Filters):
    """How similar every patch of all bands and some frames is to each atom and to its negative, beyond a threshold.

    The output is the square root of the mean of this code over each of several equal parts of the sound, and of its
    maximum over the whole sound. A sound shorter than a patch is one patch, padded with zeros, the mean of each band.

    Args:
        bins: Bands of the spectrogram, whose variance is about 1.
        atoms: Number of filters.
        width: Frames of a patch.
        eps: Variance that is added to that of each patch.
        segments: Number of parts of the sound.
    """

    def __init__(
        self, bins: int, atoms: int, width: int = FRAMES, *, eps: float = 0.1, segments: int = SEGMENTS
    ) -> None:
        super().__init__(bins, atoms, (width,), eps=eps)
        self.width, self.segments = width, segments
        self.dim, self.map_dims = 2 * atoms * (segments + 1), {"atoms": 2 * atoms}

    def patches(self, bands: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrograms that are at least as long as a patch, and the number of patches within each sound.

        Args:
            bands: Float, shape (batch, frames, bins), 0 after the end of each sound.
            frames: Number of real frames of each sound, int64, shape (batch,).

        Returns:
            Float, shape (batch, bins, frames), and int64, shape (batch,), at least 1.
        """
        missing = max(0, self.width - bands.shape[1])
        return F.pad(bands.mT, (0, missing)), (frames - self.width + 1).clamp(min=1)

    def layers(self, bands: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The code of every patch by name, float, shape (batch, patches, 2 * atoms), and the number of real patches."""
        x, counts = self.patches(bands, frames)
        products = self.products(x).mT
        code = torch.cat([products, -products], 2).clamp_min(0)
        return {"atoms": code * ragged.real(counts, code.shape[1])[:, :, None]}, counts

    def vectors(self, bands: Tensor, frames: Tensor) -> Tensor:
        """The output, float, shape (batch, dim); the arguments are those of `patches`."""
        if torch.compiler.is_exporting():  # a graph has no branches on values
            return self._pool(bands, frames)
        size = max(1, ENTRIES // (self.map_dims["atoms"] * bands.shape[1]))
        parts = zip(bands.split(size), frames.split(size))
        return torch.cat([self._pool(part[:, : max(1, int(count.max()))], count) for part, count in parts])

    def _pool(self, bands: Tensor, frames: Tensor) -> Tensor:
        layers, counts = self.layers(bands, frames)
        code, pooled = layers["atoms"], []
        position = torch.arange(code.shape[1], device=code.device)
        for segment in range(self.segments):
            # If there are fewer patches than segments, some patches are in several segments.
            begin = segment * counts // self.segments
            end = -(-(segment + 1) * counts // self.segments)
            within = ((position >= begin[:, None]) & (position < end[:, None]))[:, :, None]
            pooled.append((code * within).sum(1) / (end - begin)[:, None])
        return (torch.cat([*pooled, code.amax(1)], 1) + FLOOR).sqrt()


def mel_code(name: str, bins: int) -> MelCode | None:
    """The network of a name such as mel-dictionary-256 or mel-dictionary-256-16, whose patches have 16 frames.

    Args:
        name: Any name.
        bins: Bands of the spectrogram.

    Returns:
        None if the name is a different one.
    """
    match = PATTERN.fullmatch(name)
    return match and MelCode(bins, int(match[1]), int(match[2] or FRAMES))
