"""Linear maps of features that need no labels: whitening, and the directions that change least between views.

Both are solved in closed form, from covariances in double precision.
"""

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.kernels.matmul import matmul_nt

__all__ = ["LARGEST", "discriminants", "principal", "scatter", "whitening"]

BLOCK = 1024
"""Rows whose products are summed in single precision before they are added up in double precision."""
EXACT = 1024
"""Number of samples and dimension of features above which principal directions are computed by iteration."""
LARGEST = 8192
"""Largest dimension of features: the memory for their covariance grows with its square."""
ROUNDS = 3
"""Rounds of that iteration."""
SMALLEST = 1e-7
"""Variance, as a fraction of the largest, below which a direction holds nothing but rounding errors."""


def scatter(points: Tensor) -> Tensor:
    """Sum of the outer products of rows; those of two parts of the rows add up to that of all.

    Args:
        points: Float, shape (rows, dim), best with a mean near 0.

    Returns:
        float64, shape (dim, dim).
    """
    total = points.new_zeros(points.shape[1], points.shape[1], dtype=torch.float64)
    for rows in points.split(BLOCK):
        columns = rows.T.contiguous()
        total += matmul_nt(columns, columns)
    return total


def principal(points: Tensor, most: int) -> Tensor:
    """Orthonormal directions in which points vary most, the widest first; those without variance are omitted.

    Args:
        points: Float, shape (samples, dim), of mean 0.
        most: Largest number of directions, at least 1. With more than 1,024 dimensions and samples, they are computed
            by three rounds of orthogonal iteration, which leaves the last ones approximate.

    Returns:
        Float, shape (dim, directions).
    """
    check.at_least(1, most=most)
    samples, dim = points.shape
    most = min(most, samples, dim)
    if min(samples, dim) > EXACT:
        start = points[:most].T
        for _ in range(ROUNDS):
            start = torch.linalg.qr(points.T @ (points @ start)).Q
        variances, vectors = torch.linalg.eigh(scatter(points @ start))
        vectors = start.double() @ vectors
    elif samples < dim:  # the space that few samples span is the smaller one
        variances, vectors = torch.linalg.eigh(scatter(points.T))
        vectors = points.T.double() @ vectors / variances.clamp_min(1e-30).sqrt()
    else:
        variances, vectors = torch.linalg.eigh(scatter(points))
    variances, vectors = variances.flip(0)[:most], vectors.flip(1)[:, :most]
    return vectors[:, variances > SMALLEST * variances[:1].clamp_min(1e-30)].to(points)


def whitening(points: Tensor, dimensions: int, shrinkage: float) -> Tensor:
    """Map to principal components of about equal variance, so that no direction dominates the others.

    Variances are shrunk towards their mean first, as directions that hardly vary are mostly noise.

    Args:
        points: Float, shape (samples, dim), of mean 0.
        dimensions: Largest number of components, at least 1.
        shrinkage: Added to the variances, as a fraction of their mean, at least 0.

    Returns:
        Float, shape (dim, components).

    Raises:
        ValueError: No feature varies.
    """
    check.at_least(0, shrinkage=shrinkage)
    directions = principal(points, dimensions)
    if not directions.shape[1]:
        raise UserError(f"features must vary to be whitened, got {len(points)} equal ones")
    variances = (points @ directions).double().square().mean(0)
    mean = points.double().square().mean()
    return directions * (variances + shrinkage * mean).rsqrt().to(directions)


def discriminants(between: Tensor, within: Tensor, dimensions: int, regularisation: float) -> Tensor:
    """Directions in which samples differ most, relative to how much random views of one sample differ.

    The generalised eigenvectors v of between v = l (within + r m) v, where r is the regularisation and m the mean of
    the diagonal of `within` (of `between` if views change nothing), each of length 1 in the metric on the right.

    Args:
        between: Covariance of the means of the samples, float64, shape (dim, dim).
        within: Covariance of a view around the mean of its sample, float64, shape (dim, dim).
        dimensions: Largest number of directions, at least 1.
        regularisation: r, above 0.

    Returns:
        float64, shape (dim, directions), the largest l first; directions in which no sample differs are omitted.
    """
    check.at_least(1, dimensions=dimensions)
    check.positive(regularisation=regularisation)
    scale = within.diagonal().mean()
    scale = scale if scale > 0 else between.diagonal().mean()
    noise = within + regularisation * scale * torch.eye(len(within)).to(within)
    # With noise = L L^T, the vectors are those of L^-1 between L^-T, brought back by L^-T.
    lower = torch.linalg.cholesky(noise)
    half = torch.linalg.solve_triangular(lower, between, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
    values, vectors = values.flip(0)[:dimensions], vectors.flip(1)[:, :dimensions]
    vectors = vectors[:, values > SMALLEST * values[:1].clamp_min(1e-30)]
    return torch.linalg.solve_triangular(lower.T, vectors, upper=True)
