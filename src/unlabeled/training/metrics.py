"""Whether an embedding is healthy or has collapsed, in numbers and in words."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["directions", "mean_cosine", "rank", "spread", "verdict"]


def spread(embedding: Tensor) -> float:
    """How widely the directions differ: near 1 for a healthy projection, 0 when all are the same.

    Blind to dimensional collapse: vectors on one line still reach about 0.8.

    Args:
        embedding: Float, shape (samples, dim), at least two samples.

    Returns:
        Standard deviation over the samples of the unit vectors, mean over the dimensions, times sqrt(dim).
    """
    units = F.normalize(_exact(embedding), dim=1)
    return units.std(dim=0).mean().item() * math.sqrt(units.shape[1])


def mean_cosine(embedding: Tensor) -> float:
    """Mean cosine of two different samples: 0 when healthy, 1 when all point the same way.

    Args:
        embedding: Float, shape (samples, dim), at least two samples.
    """
    units = F.normalize(_exact(embedding), dim=1)
    samples = len(units)
    return ((units.sum(dim=0).square().sum() - units.square().sum()) / (samples * (samples - 1))).item()


def rank(embedding: Tensor) -> float:
    """RankMe: exponential of the entropy of the normalised singular values, without centring.

    Source: Garrido, Balestriero, Najman, LeCun, 2022, https://arxiv.org/abs/2210.02885

    Args:
        embedding: Float, shape (samples, dim).

    Returns:
        Number of directions in use, from 1 to min(samples, dim).
    """
    values = _singular_values(_exact(embedding))
    weights = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(weights).sum().exp().item()


def directions(embedding: Tensor) -> int:
    """Directions in which the samples differ at all, however unequal they are.

    Args:
        embedding: Float, shape (samples, dim).

    Returns:
        Number of centred singular values above a thousandth of the largest, at most min(samples - 1, dim).
    """
    rows = _exact(embedding)
    values = _singular_values(rows - rows.mean(dim=0))
    return int((values > values.amax() / 1000).sum())


def verdict(
    embedding: Tensor, loss: float, chance: float | None = None, before: float = math.inf
) -> tuple[str, str]:
    """Judge how a training goes; no single metric may raise the alarm of a collapse.

    Features after a ReLU lie in a cone: their spread is low and their cosines are high although nothing is wrong. So
    the spread must be tiny and the rank low before a collapse is named. The rank of a random network is low
    on photos, since brightness is most of what it sees, but all directions are in use: before a dimensional
    collapse is named, most directions must be empty as well.

    Args:
        embedding: Float, shape (samples, dim), of an encoder or a head; 64 samples do, 512 are read.
        loss: Recent mean loss, in the unit of `chance`.
        chance: Loss at chance level, where the method knows it.
        before: Spread before the training; one that was small then, as of untrained means of texts, has not
            collapsed unless it halved or is next to nothing.

    Returns:
        A code ("healthy", "not learning", "dimensional collapse", "collapsed", "diverged") and one sentence.
    """
    if not (math.isfinite(loss) and bool(embedding.isfinite().all())):
        return (
            "diverged",
            f"Diverged: the loss is {loss:.4g} or a feature not finite; lower the learning rate.",
        )
    embedding = embedding[:512]
    limit = min(len(embedding) - 1, embedding.shape[1])
    width, effective, used = spread(embedding), rank(embedding), directions(embedding)
    numbers = f"spread {width:.2g}, rank {effective:.1f}, {used} of {limit} directions in use"
    if width < max(0.005, min(0.05, before / 2)) and effective < 0.1 * limit:
        return "collapsed", f"Collapsed: nearly the same features for every sample ({numbers})."
    if chance is not None and loss > chance - 0.01 * abs(chance):
        why = f"the loss {loss:.3f} is no better than chance, {chance:.3f}"
        return "not learning", f"Not learning yet: {why}, while the features differ ({numbers})."
    if effective < 0.15 * limit and used < 0.25 * limit:
        return "dimensional collapse", f"Dimensional collapse: most directions are empty ({numbers})."
    return "healthy", f"Healthy: samples differ in many directions ({numbers})."


def _exact(embedding: Tensor) -> Tensor:
    return embedding.detach().cpu().double()


def _singular_values(rows: Tensor) -> Tensor:
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
