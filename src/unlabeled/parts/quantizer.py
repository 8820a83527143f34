"""Vectors described by a few learned codes, chosen so that gradients pass."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from unlabeled.parts import gather
from unlabeled.parts.precision import full, full_precision

__all__ = ["Quantizer", "choose", "perplexity"]


def choose(logits: Tensor, temperature: Tensor, noise: bool) -> Tensor:
    """One code for each row: the most likely, perhaps after noise, with the gradient of a softmax.

    Args:
        logits: Float, shape (..., codes).
        temperature: Temperature of that softmax, above 0.
        noise: Whether to add Gumbel noise, so that each code is drawn with its probability.

    Returns:
        One-hot, same shape.
    """
    noisy = logits - torch.empty_like(logits).exponential_().log() if noise else logits
    soft = (noisy / temperature).softmax(-1)
    hard = F.one_hot(noisy.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard + (soft - soft.detach())


@full_precision
def perplexity(probabilities: Tensor) -> Tensor:
    """Effective number of codes that all processes use, summed over groups: 1 of a group up to all, if equally used.

    Args:
        probabilities: Probability of each code at each position, float, shape (positions, groups, codes).

    Returns:
        Scalar, from groups to groups * codes.
    """
    positions = gather.mean_over_processes(probabilities.new_tensor(len(probabilities))).clamp(min=1)
    usage = gather.mean_over_processes(probabilities.sum(0)) / positions
    return torch.special.entr(usage).sum(1).exp().sum()


class Quantizer(nn.Module):
    """Describe vectors by one learned code of each group, concatenated.

    Args:
        dim: Dimension of the vectors.
        groups: Number of groups.
        codes: Number of codes in each group.
        code_dim: Dimension of the description, a multiple of the number of groups.
    """

    def __init__(self, dim: int, groups: int, codes: int, code_dim: int) -> None:
        super().__init__()
        self.groups = groups
        self.logits = nn.Linear(dim, groups * codes)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        self.words = nn.Parameter(torch.rand(groups, codes, code_dim // groups))

    def forward(self, vectors: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Descriptions of vectors, float, shape (batch, positions, dim); in training mode chosen with noise.

        Returns:
            Float, shape (batch, positions, code_dim); the chosen codes, one-hot, and their probabilities before noise,
            float, shape (batch, positions, groups, codes).
        """
        logits = rearrange(full(self.logits(vectors)), "b t (g v) -> b t g v", g=self.groups)
        codes = choose(logits, temperature, self.training)
        words = einsum(codes, full(self.words), "b t g v, g v d -> b t g d")
        return rearrange(words, "b t g d -> b t (g d)"), codes, logits.softmax(-1)
