"""A stored vector for every sample of the data, and losses that recognise a sample among all of them.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
https://arxiv.org/abs/1805.01978
"""

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.kernels.partition import log_partition
from unlabeled.parts import gather
from unlabeled.parts.precision import full_precision

__all__ = ["MemoryBank", "nce", "refuse_rows", "softmax"]

ALL_AT_ONCE = 8
"""Samples per negative up to which vectors are multiplied by the whole bank, which is faster than gathering rows."""


@full_precision
def softmax(vectors: Tensor, rows: Tensor, index: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each sample's own index among all samples.

    Args:
        vectors: Unit vectors, float, shape (batch, dim).
        rows: Stored vectors of all samples, float, shape (samples, dim).
        index: Index of each sample, int64, shape (batch,).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the batch, scalar, in nats; ln(samples) if all vectors are equal.
    """
    own = (vectors * rows[index]).sum(1) / temperature
    return (log_partition(vectors, rows, 1 / temperature) - own).mean()


@full_precision
def nce(logits: Tensor, log_constant: Tensor, samples: int) -> Tensor:
    """Noise-contrastive estimation: tell a sample's own vector from m vectors that are drawn uniformly.

    Args:
        logits: Cosines divided by the temperature, that of the own vector first, float, shape (batch, 1 + m).
        log_constant: Logarithm of the softmax's denominator, assumed to be the same for all samples, scalar.
        samples: Number of samples of the data.

    Returns:
        Mean over the batch, scalar, in nats; ln(1 + m) + m ln(1 + 1 / m) if each probability is 1 / samples.
    """
    odds = logits - log_constant - math.log((logits.shape[1] - 1) / samples)
    return (F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(1)).mean()


@full_precision
def cosines(vectors: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Cosines of each sample with some of the stored vectors.

    Args:
        vectors: Unit vectors, float, shape (batch, dim).
        rows: Stored vectors of all samples, float, shape (samples, dim).
        candidates: Indices of the stored vectors for each sample, int64, shape (batch, m).

    Returns:
        Float, shape (batch, m), in -1..1; never computed in half precision.
    """
    if len(rows) <= ALL_AT_ONCE * candidates.shape[1]:
        return (vectors @ rows.T).gather(1, candidates)
    return (rows[candidates] @ vectors[:, :, None])[:, :, 0]


def refuse_rows(samples: int, dim: int) -> None:
    """Refuse a vector for each of so many samples where they would take more than half of the machine's memory.

    Raises:
        UserError: They would.
    """
    size, memory = 4 * samples * dim, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory // 2:
        raise UserError(
            f"a method that keeps a vector for each sample needs {size / 1e9:,.0f} GB for {samples:,} samples, "
            f"more than half of the {memory / 1e9:,.0f} GB of memory; take one that does not, such as simclr"
        )


class MemoryBank(nn.Module):
    """A unit vector for every sample, the same in every process; random until its first update.

    Args:
        dim: Dimension of the vectors.
        momentum: Fraction of a stored vector that an update keeps, in 0..1.
    """

    rows: Tensor
    log_constant: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("rows", torch.zeros(0, dim))
        self.register_buffer("log_constant", torch.tensor(torch.inf))

    def fill(self, samples: int) -> None:
        """Start over with a random vector for each of `samples` samples.

        Raises:
            UserError: They take more than half of the memory.
        """
        refuse_rows(samples, self.rows.shape[1])
        rows = F.normalize(torch.randn(samples, self.rows.shape[1]), dim=1)
        self.rows = gather.broadcast(rows.to(self.rows))
        self.log_constant.fill_(torch.inf)

    def current(self) -> Tensor:
        """Copy of the stored vectors, float, shape (samples, dim), which later updates do not change.

        Raises:
            UserError: The bank is still empty.
        """
        if not len(self.rows):
            raise UserError("memory bank must be filled first: call prepare(data)")
        return self.rows.clone()

    def chance(self, negatives: int) -> float | None:
        """Loss of `compare` if all vectors are equal or each probability is 1 / samples; None while it is unknown."""
        if negatives:
            return math.log1p(negatives) + negatives * math.log1p(1 / negatives)
        return math.log(len(self.rows)) if len(self.rows) else None

    def compare(
        self, vectors: Tensor, rows: Tensor, index: Tensor, negatives: int, temperature: float
    ) -> Tensor:
        """Loss of recognising samples: `softmax` over all, or `estimate` by so many negatives unless they are 0."""
        if negatives:
            return self.estimate(vectors, rows, index, negatives, temperature)
        return softmax(vectors, rows, index, temperature)

    def estimate(
        self, vectors: Tensor, rows: Tensor, index: Tensor, negatives: int, temperature: float
    ) -> Tensor:
        """Loss by noise-contrastive estimation; the first one in training sets the constant of the softmax.

        Args:
            vectors: Unit vectors, float, shape (batch, dim).
            rows: What `current` gave.
            index: Index of each sample, int64, shape (batch,).
            negatives: Number of stored vectors to draw for each sample; its own may be among them, as noise is drawn
                from all samples.
            temperature: Divides the cosines, above 0.
        """
        candidates = torch.cat([index[:, None], self.noise(index, negatives)], 1)
        logits = cosines(vectors, rows, candidates) / temperature
        # Exponentials at low temperatures overflow in float32, so only their logarithms are computed.
        total = gather.gather(logits.detach().logsumexp((0, 1))[None]).logsumexp(0)
        first = total + math.log(len(rows) / (logits.numel() * gather.processes()))
        constant = self.log_constant.where(self.log_constant.isfinite(), first.to(self.log_constant))
        if self.training:
            self.log_constant.copy_(constant)
        return nce(logits, constant, len(rows))

    def noise(self, index: Tensor, negatives: int) -> Tensor:
        """Indices of random samples for each sample of the batch, equally likely, int64, shape (batch, negatives)."""
        return torch.randint(len(self.rows), (len(index), negatives), device=index.device)

    @torch.no_grad()
    def update(self, vectors: Tensor, index: Tensor) -> None:
        """Move stored vectors towards new ones, on the sphere.

        Args:
            vectors: Unit vectors of samples of this process, float, shape (batch, dim).
            index: Index of each sample, int64, shape (batch,); a sample that occurs twice moves towards the mean of
            both.
        """
        vectors, index = gather.gather(vectors.detach()), gather.gather(index)
        samples, position, counts = index.unique(return_inverse=True, return_counts=True)
        new = self.rows.new_zeros(len(samples), vectors.shape[1]).index_add_(
            0, position, vectors.to(self.rows)
        )
        moved = self.rows[samples].lerp(new / counts[:, None], 1 - self.momentum)
        self.rows[samples] = F.normalize(moved, dim=1)
