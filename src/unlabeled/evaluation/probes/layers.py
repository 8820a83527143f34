"""Which layer to read, chosen on training labels: the best of many on the test set would flatter."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.evaluation.probes import linear

__all__ = ["choose", "held_out_loss"]


def choose(names: Sequence[str], loss: Callable[[str], float]) -> tuple[str, str]:
    """The layer with the lowest held-out loss.

    Args:
        names: The layers from the input on.
        loss: Held-out loss of a layer, NaN where the labels leave nothing to hold out.

    Returns:
        The layer, and in words how it was chosen. Where there is nothing to choose by it is the last one.
    """
    losses = {name: loss(name) for name in names}
    known = [name for name in names if losses[name] == losses[name]]
    if not known:
        return names[-1], "the last, as one label of each class leaves nothing to choose by"
    return min(known, key=losses.__getitem__), "chosen on held-out training labels"


def held_out_loss(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    statistics: tuple[Tensor, Tensor] | None = None,
    groups: Tensor | None = None,
    seed: int = 0,
) -> float:
    """Cross-entropy of a linear probe on labels that it was not fitted to.

    Args:
        features: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        statistics: As in `linear.fit`.
        groups: Group of each sample, int64, shape (samples,), which is held out as a whole; None where each stands
            alone.
        seed: Seed of the split.

    Returns:
        Mean over five folds in nats, from `linear.HOLD_OUT_FROM` labels on over one; NaN where no class has two labels
        or lies in two groups.
    """
    count = min(5, int(labels.bincount().max()))
    fold = linear.folds(labels, max(1, count), seed)
    if groups is not None:
        _, number = groups.cpu().unique(return_inverse=True)
        parts = int(number.max()) + 1
        count = min(count, parts)
        order = torch.randperm(parts, generator=torch.Generator().manual_seed(seed))
        fold = (order % max(1, count))[number]
    if count < 2:
        return torch.nan
    fold, losses = fold.to(labels.device), []
    for held_out in range(1 if len(labels) >= linear.HOLD_OUT_FROM else count):
        rest, judged = fold != held_out, fold == held_out
        judged &= torch.isin(labels, labels[rest])  # of a class that it never saw, a probe knows nothing
        fitted = linear.fit(features[rest], labels[rest], classes, statistics=statistics, seed=seed)
        losses.append(F.cross_entropy(fitted(features[judged]), labels[judged], reduction="none"))
    return float(torch.cat(losses).mean())
