"""Codes of vectors that nothing has learned: the nearest of some random directions after a random projection."""

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from unlabeled.parts.precision import full_precision

__all__ = ["RandomQuantizer"]

_ENTRIES = 2**24
"""Most similarities in memory at once."""


class RandomQuantizer(nn.Module):
    """Codebooks of random unit vectors, each with a random projection (Xavier's uniform law); both are buffers.

    Args:
        dim: Dimension of the vectors.
        codebooks: Number of codebooks.
        codes: Codes of each.
        code_dim: Dimension of the codes.
    """

    projections: Tensor
    words: Tensor

    def __init__(self, dim: int, codebooks: int, codes: int, code_dim: int) -> None:
        super().__init__()
        projections = [nn.init.xavier_uniform_(torch.empty(code_dim, dim)) for _ in range(codebooks)]
        self.register_buffer("projections", torch.stack(projections))
        self.register_buffer("words", F.normalize(torch.randn(codebooks, codes, code_dim), dim=2))

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """The code of each codebook whose direction is nearest to that of the projected vector.

        Args:
            vectors: Float, shape (vectors, dim); only their directions count.

        Returns:
            int64, shape (vectors, codebooks).
        """
        size = max(1, _ENTRIES // self.words.shape[:2].numel())
        return torch.cat([_nearest(chunk, self.projections, self.words) for chunk in vectors.split(size)])


@full_precision
def _nearest(vectors: Tensor, projections: Tensor, words: Tensor) -> Tensor:
    projected = einsum(vectors, projections, "vectors dim, books code dim -> books vectors code")
    return (projected @ words.mT).argmax(2).T  # the length of a projection changes no order
