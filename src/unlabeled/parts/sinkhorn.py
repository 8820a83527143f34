"""Balanced soft assignments of samples to clusters.

Source: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013, https://arxiv.org/abs/1306.0895
"""

from torch import Tensor

from unlabeled.parts import gather
from unlabeled.parts.precision import full_precision

__all__ = ["sinkhorn"]


@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int, together: bool = False) -> Tensor:
    """Soft assignments close to exp(scores / epsilon) that use all clusters about equally.

    Args:
        scores: Similarity of samples and clusters, float, shape (samples, clusters).
        epsilon: Softness, above 0; larger is closer to uniform.
        iterations: Rounds of scaling columns and rows, at least 1.
        together: Whether clusters are used equally by the samples of all processes, of which each may have its own
            number, rather than by those of this one.

    Returns:
        Probabilities, float, shape (samples, clusters): rows sum to 1, columns to nearly the same number.
    """
    logarithm = scores / epsilon
    for _ in range(iterations):
        used = logarithm.logsumexp(0, keepdim=True)
        used = gather.gather(used).logsumexp(0, keepdim=True) if together else used
        logarithm = (logarithm - used).log_softmax(1)
    return logarithm.exp()
