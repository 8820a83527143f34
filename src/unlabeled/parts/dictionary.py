"""A dictionary of patches: contrast normalisation, whitening and spherical k-means.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html; Coates, Ng, "Learning Feature Representations with K-means", 2012,
https://doi.org/10.1007/978-3-642-35289-8_30
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts import gather

__all__ = ["Dictionary", "assign", "draw_patches", "normalize_contrast", "whitening"]

ENTRIES = 2**22
"""Most products of patches and atoms in memory at once."""


def draw_patches(
    inputs: Tensor, sides: tuple[int, ...], count: int, positions: Tensor | None = None
) -> Tensor:
    """Patches at random positions, all of them inside the inputs.

    Args:
        inputs: Float, shape (batch, channels, *lengths), such as height and width.
        sides: Lengths of a patch, one for each of `lengths`, which it must not exceed.
        count: Number of patches to draw from each input.
        positions: Number of positions along the last axis that are allowed in each input, at least 1, int64, shape
            (batch,); None allows all.

    Returns:
        Float, shape (batch * count, channels, *sides).
    """
    windows = inputs
    for axis, side in enumerate(sides, 2):
        windows = windows.unfold(axis, side, 1)
    number = len(inputs) * count
    sample = torch.arange(len(inputs), device=inputs.device).repeat_interleave(count)
    corners = [
        torch.randint(windows.shape[axis], (number,), device=inputs.device)
        for axis in range(2, 2 + len(sides))
    ]
    if positions is not None:
        limit = positions.to(inputs.device)[sample]
        corners[-1] = (torch.rand(number, device=inputs.device) * limit).long().minimum(limit - 1)
    return windows[sample, :, *corners]


def normalize_contrast(patches: Tensor, eps: float) -> Tensor:
    """Patches minus their means, divided by their standard deviations.

    Args:
        patches: Float, shape (patches, numbers).
        eps: Variance that is added, so that noise in flat patches is not amplified.
    """
    variance, mean = torch.var_mean(patches, 1, correction=0, keepdim=True)
    return (patches - mean) * (variance + eps).rsqrt()


def whitening(patches: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean of patches, and the symmetric matrix (ZCA) that decorrelates them.

    Args:
        patches: Float, shape (patches, numbers).
        eps: Variance that is added to that of every direction.

    Returns:
        Float, shapes (numbers,) and (numbers, numbers).
    """
    centred = patches.double() - patches.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(patches))
    scales = (variances.clamp_min(0) + eps).rsqrt()
    matrix = (directions * scales) @ directions.T
    return patches.double().mean(0).to(patches.dtype), matrix.to(patches.dtype)


def assign(patches: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """The atom that is most similar to each patch or its negative.

    Args:
        patches: Float, shape (patches, numbers).
        atoms: Unit vectors, float, shape (atoms, numbers).

    Returns:
        Its index, int64, and its product with the patch, sign included, float, shape (patches,) each.
    """
    pairs = []
    for chunk in patches.split(max(1, ENTRIES // len(atoms))):
        products = chunk @ atoms.T
        nearest = products.abs().argmax(1)
        pairs.append((nearest, products.gather(1, nearest[:, None])[:, 0]))
    indices, products = zip(*pairs)
    return torch.cat(indices), torch.cat(products)


class FilterBank(Protocol):
    """A network that computes with the filters of a dictionary."""

    def set_filters(self, filters: Tensor, offsets: Tensor) -> None: ...


class Dictionary(nn.Module):
    """Unit atoms that explain whitened patches, each patch by one atom times a number (gain-shape k-means).

    Args:
        atoms: Number of atoms.
        numbers: Number of values in a patch.
        eps: Variance added in contrast normalisation, in units of the input.
        whitening_eps: Variance added in whitening; that of a normalised patch is 1.
        decay: Fraction of the sums of earlier updates that an update keeps.
    """

    mean: Tensor
    whitening: Tensor
    atoms: Tensor
    sums: Tensor

    def __init__(
        self, atoms: int, numbers: int, *, eps: float, whitening_eps: float, decay: float = 0.5
    ) -> None:
        super().__init__()
        self.eps, self.whitening_eps, self.decay = eps, whitening_eps, decay
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("whitening", torch.eye(numbers))
        self.register_buffer("atoms", F.normalize(torch.randn(atoms, numbers), dim=1))
        self.register_buffer("sums", torch.zeros(atoms, numbers))

    @torch.no_grad()
    def begin(self, patches: Tensor, code: FilterBank | None = None) -> None:
        """Estimate the whitening, and initialise the atoms with random patches, the same in all processes.

        Args:
            patches: Float, shape (patches, numbers).
            code: Network that gets the filters afterwards.
        """
        mean, matrix = whitening(normalize_contrast(patches, self.eps), self.whitening_eps)
        self.mean.copy_(gather.broadcast(mean))
        self.whitening.copy_(gather.broadcast(matrix))
        self.sums.zero_()
        self.atoms.copy_(
            gather.broadcast(self._replace_unused(torch.zeros_like(self.atoms), self.whiten(patches)))
        )
        if code is not None:
            code.set_filters(*self.filters())

    def whiten(self, patches: Tensor) -> Tensor:
        """Contrast-normalised and decorrelated patches, float, shape (patches, numbers)."""
        return (normalize_contrast(patches, self.eps) - self.mean) @ self.whitening

    @torch.no_grad()
    def forward(
        self, patches: Tensor, mirrored: Tensor | None = None, code: FilterBank | None = None
    ) -> Tensor:
        """Fraction of the sum of squares of the patches that their atoms leave unexplained, in 0..1; no gradient.

        In training mode, the atoms then move towards the patches that they explain, equally in all processes.

        Args:
            patches: Float, shape (patches, numbers).
            mirrored: The same patches mirrored, if an atom may explain either; float, same shape.
            code: Network that gets the filters after the atoms have moved.
        """
        whitened = self.whiten(patches)
        nearest, products = assign(whitened, self.atoms)
        if mirrored is not None:
            other = self.whiten(mirrored)
            nearest_other, products_other = assign(other, self.atoms)
            better = products_other.abs() > products.abs()
            whitened = torch.where(better[:, None], other, whitened)
            nearest, products = (
                torch.where(better, nearest_other, nearest),
                torch.where(better, products_other, products),
            )
        unexplained = 1 - products.square().sum() / whitened.square().sum().clamp_min(1e-12)
        if self.training:
            self._update(whitened, nearest, products)
            if code is not None:
                code.set_filters(*self.filters())
        return unexplained

    def _update(self, whitened: Tensor, nearest: Tensor, products: Tensor) -> None:
        numbers, sums = torch.arange(len(self.atoms), device=nearest.device), torch.zeros_like(self.sums)
        size = max(1, ENTRIES // len(self.atoms))
        # Matrix products, unlike scattered additions, give the same bits every time.
        for rows, index, product in zip(whitened.split(size), nearest.split(size), products.split(size)):
            sums += torch.where(numbers[:, None] == index, product, 0) @ rows
        self.sums.mul_(self.decay).add_(gather.sum_over_processes(sums))
        self.atoms.copy_(gather.broadcast(self._replace_unused(F.normalize(self.sums, dim=1), whitened)))

    def _replace_unused(self, atoms: Tensor, whitened: Tensor) -> Tensor:
        """Atoms, of which those that no patch has chosen are replaced by random patches."""
        unused = atoms.square().sum(1) < 0.5
        if not unused.any():
            return atoms
        lengths = whitened.norm(dim=1)
        # Flat patches have no direction.
        rows = torch.multinomial((lengths > 1e-6).float() + 1e-12, int(unused.sum()), replacement=True)
        noise = 1e-3 * torch.randn_like(whitened[rows])  # so that atoms of equal patches differ
        return atoms.masked_scatter(unused[:, None], F.normalize(whitened[rows] + noise, dim=1))

    def filters(self) -> tuple[Tensor, Tensor]:
        """Filters that give the products of atoms and whitened patches from patches that are only normalised.

        Returns:
            Filters, float, shape (atoms, numbers), and offsets that are added to their products, float, shape (atoms,).
        """
        filters = self.atoms @ self.whitening
        return filters, -filters @ self.mean

    @torch.no_grad()
    def reconstruct(self, patches: Tensor, samples: int, shown: int = 36) -> tuple[Tensor, Tensor]:
        """Patches reconstructed from one atom each, with their own mean and contrast, and the most used atoms.

        Args:
            patches: Equally many of each sample, one sample after the other, float, shape (patches, numbers).
            samples: Number of samples.
            shown: Largest number of atoms of each sample, those that explain most of it.

        Returns:
            Float, shape (patches, numbers), and atoms as patches, in 0..1, float, shape (samples, atoms, numbers).
        """
        nearest, products = assign(self.whiten(patches), self.atoms)
        output = self.unwhiten(products[:, None] * self.atoms[nearest])
        variance, mean = torch.var_mean(patches, 1, correction=0, keepdim=True)
        explained = patches.new_zeros(samples, len(self.atoms))
        explained.scatter_add_(1, nearest.view(samples, -1), products.square().view(samples, -1))
        atoms = self.unwhiten(self.atoms) - self.mean
        atoms = atoms / atoms.abs().amax(1, keepdim=True).clamp_min(1e-12)
        most = explained.topk(min(shown, len(atoms)), dim=1).indices
        return output * (variance + self.eps).sqrt() + mean, atoms[most] / 2 + 0.5

    def unwhiten(self, whitened: Tensor) -> Tensor:
        """Inverse of the whitening: normalised patches, float, shape (patches, numbers)."""
        return (
            torch.linalg.solve(self.whitening.double(), whitened.double().T).T.to(whitened.dtype) + self.mean
        )
