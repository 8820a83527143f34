"""Few labels: the same probe on small, balanced, nested draws of the training labels."""

import torch
from torch import Tensor

__all__ = ["subsets"]


def subsets(
    labels: Tensor, per_class: int, *, classes: list[str] | int, draws: int = 5, seed: int = 0
) -> list[Tensor]:
    """Draw class-balanced subsets; a draw with fewer labels lies inside the same draw with more.

    Classes without a label are left out.

    Args:
        labels: Class of each sample, int64, shape (samples,).
        per_class: Samples of each class.
        classes: Names of the classes, or their number where they have none.
        draws: Number of subsets.
        seed: Seed of the draws.

    Returns:
        `draws` tensors of row numbers, ascending, int64, shape (per_class * classes with a label,) each, on the CPU.

    Raises:
        ValueError: A class has labels, but fewer than `per_class`.
    """
    names = [str(index) for index in range(classes)] if isinstance(classes, int) else classes
    labels = labels.cpu()
    found, counts = labels.unique(return_counts=True)
    for label, count in zip(found.tolist(), counts.tolist(), strict=True):
        if count < per_class:
            raise ValueError(
                f"labels_per_class must be at most the labels of each class, got {per_class}: "
                f"class {names[label]} has {count}"
            )
    order = torch.rand(draws, len(labels), generator=torch.Generator().manual_seed(seed))
    members = [(labels == label).nonzero()[:, 0] for label in found]
    return [
        torch.cat([rows[draw[rows].argsort()[:per_class]] for rows in members]).sort().values
        for draw in order
    ]
