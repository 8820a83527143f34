"""A transformer over the log-mel spectrogram of a sound, a few frames at a time."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.parts import ragged

__all__ = ["SIZES", "MelTransformer"]

STACK = 4
"""Frames of a token: 40 ms."""
POSITION, GROUPS = 15, 16
"""Tokens that the convolution for positions spans, and groups of its channels."""


class Size(NamedTuple):
    """Numbers that distinguish the sizes of the network."""

    width: int
    layers: int
    heads: int
    dropout: float


SIZES = {
    "mel-transformer-mini": Size(192, 4, 4, 0.1),
    "mel-transformer-tiny": Size(48, 2, 4, 0.0),
    "mel-transformer-base": Size(576, 12, 8, 0.1),
}
"""By name."""


class MelTransformer(nn.Module):
    """Layers of attention over tokens of several frames, whose bands have mean 0 and deviation 1 in each sound.

    Every layer normalises its input; the last layer's output is normalised too.

    Args:
        bins: Numbers of an input frame.
        size: One of `SIZES`.
    """

    def __init__(self, bins: int, size: Size) -> None:
        super().__init__()
        width = size.width
        self.token_dim = STACK * bins
        self.project = nn.Linear(self.token_dim, width)
        self.position = nn.Conv1d(width, width, POSITION, padding=POSITION // 2, groups=GROUPS)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, size.heads, 4 * width, size.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dim = width
        self.map_dims = {f"layer{number}": width for number in range(1, size.layers + 1)}
        self.rates = dict.fromkeys(self.map_dims, 1 / STACK)

    def tokens(self, bands: Tensor, frames: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames side by side, a few to a token, each band with mean 0 and deviation 1 over its sound.

        Args:
            bands: Float, shape (batch, frames, bins).
            frames: True frames of each sound, int64, shape (batch,), at least 1.
            masked: Tokens whose frames do not count for mean and deviation, bool, shape (batch, tokens).

        Returns:
            Float, shape (batch, tokens, token_dim), 0 after the end of each sound; true tokens of each sound, int64.
        """
        counted = real = ragged.real(frames, bands.shape[1])
        if masked is not None:
            counted = real & ~masked.repeat_interleave(STACK, 1)[:, : real.shape[1]]
        weights = (counted / counted.sum(1, keepdim=True).clamp(min=1))[:, :, None]
        centred = bands - (weights * bands).sum(1, keepdim=True)
        spread = ((weights * centred.square()).sum(1, keepdim=True) + 1e-5).sqrt()
        bands = F.pad(centred / spread * real[:, :, None], (0, 0, 0, -bands.shape[1] % STACK))
        return rearrange(bands, "b (t s) c -> b t (s c)", s=STACK), (frames + STACK - 1) // STACK

    def context(self, tokens: Tensor, counts: Tensor) -> list[Tensor]:
        """Outputs of all layers, float, shape (batch, tokens, width), from what `tokens` gives."""
        rows = ragged.alike(counts, tokens.shape[1])
        parts = [self._context(tokens[some, : int(counts[some].max())], counts[some]) for some in rows]
        return [ragged.join(rows, list(layer)) for layer in zip(*parts, strict=True)]

    def _context(self, tokens: Tensor, counts: Tensor) -> list[Tensor]:
        real = ragged.real(counts, tokens.shape[1])
        hidden = self.project(tokens) * real[:, :, None]
        hidden = hidden + F.gelu(self.position(hidden.mT)).mT
        whole = not torch.compiler.is_exporting() and bool(real.all())  # a graph has no branches on values
        ignored, outputs = None if whole else ~real, []
        for block in self.blocks:
            hidden = block(hidden, src_key_padding_mask=ignored)
            outputs.append(hidden)
        return [*outputs[:-1], self.norm(hidden)]

    def layers(self, bands: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Every layer at every token, float, shape (batch, tokens, width), and true tokens of each sound."""
        tokens, counts = self.tokens(bands, frames)
        return dict(zip(self.map_dims, self.context(tokens, counts), strict=True)), counts
