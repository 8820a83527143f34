"""Contrastive losses: the probability of the positive in a softmax over similarities (InfoNCE), in its usual variants.

They differ in what a vector is compared with: all other views of the batch (`nt_xent`), the samples of other classes
(`supervised_contrastive`), a queue (`with_queue`), the targets of the batch (`in_batch`), or positions of its own
sequence (`negatives`, `cosines` and `first_of`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.kernels.partition import log_partition
from unlabeled.parts import gather
from unlabeled.parts.precision import full_precision

__all__ = [
    "cosines",
    "first_of",
    "in_batch",
    "nearest",
    "negatives",
    "nt_xent",
    "supervised_contrastive",
    "with_queue",
]


@full_precision
def nt_xent(first: Tensor, second: Tensor, temperature: float, across: bool = True) -> Tensor:
    """NT-Xent: InfoNCE over all other views of all processes.

    Args:
        first: Projections of one view of each image, float, shape (batch, dim); only their directions count.
        second: Projections of the other view, row by row the same images, float, shape (batch, dim).
        temperature: Divides the cosines, above 0.
        across: Whether views of the other processes are compared too, all of which must then take part.

    Returns:
        Mean over the rows of this process, scalar, in nats; ln(2 * images - 1) if all vectors are equal.
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    views = everyone = torch.cat([first, second])
    own = torch.arange(len(first), device=first.device)
    if across and gather.processes() > 1:
        everyone = torch.cat([gather.gather(first), gather.gather(second)])
        own = gather.own_rows(len(first), first.device)
    own = torch.cat([own, own + len(everyone) // 2])
    agreement = (first * second).sum(1).repeat(2) / temperature
    # A view is not its own partner, so it is skipped.
    return (log_partition(views, everyone, 1 / temperature, own) - agreement).mean()


@full_precision
def supervised_contrastive(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """SupCon: NT-Xent for your own labels, where all other samples of a class are partners.

    This is the form that averages outside the logarithm, L_out of Khosla et al., "Supervised Contrastive Learning",
    2020, https://arxiv.org/abs/2004.11362, without the factor of their code, temperature / 0.07.

    Args:
        vectors: Projections, float, shape (samples, dim); only their directions count. Two views of an image are two
            samples.
        labels: Classes, any integers, shape (samples,); equally many samples in every process.
        temperature: Divides the cosines, above 0.

    Returns:
        Scalar, in nats; its mean over the processes is the mean over all samples. A sample alone in its class has no
        partner and is excluded from the mean, but others are still compared with it; 0 if none has a partner.

    Raises:
        UserError: The temperature is not above 0, or there is not one label per vector.
    """
    check.positive(temperature=temperature)
    if labels.shape != vectors.shape[:1]:
        raise UserError(
            f"labels must be one for each of {len(vectors)} vectors, got shape {tuple(labels.shape)}"
        )
    vectors = F.normalize(vectors, dim=1)
    _, classes, sizes = gather.gather(labels).unique(return_inverse=True, return_counts=True)
    classes, has_partners = gather.own(classes), sizes > 1
    # The cosines of our own samples with all partners, summed within each class, without a matrix of pairs.
    sums = vectors.new_zeros(len(sizes), vectors.shape[1]).index_add(0, classes, vectors)
    squares = vectors.detach().square().sum(1)  # the same for all unit vectors, so without a gradient
    itself = vectors.new_zeros(len(sizes)).index_add(0, classes, squares)
    similarity = (sums * gather.sum_over_processes(sums)).sum(1) - itself
    agreement = (similarity[has_partners] / (sizes[has_partners] - 1)).sum() / temperature
    own = gather.own_rows(len(vectors), vectors.device)
    everyone = log_partition(vectors, gather.gather(vectors), 1 / temperature, own)
    # Every process divides by the same number, though they may differ in how many samples have partners.
    total = sizes[has_partners].sum().clamp(min=1)
    return (everyone[has_partners[classes]].sum() - agreement) * gather.processes() / total


@full_precision
def with_queue(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the query's own key and a queue of other keys.

    Args:
        queries: Projections of the student, float, shape (batch, dim); only their directions count.
        keys: Unit vectors of the teacher, row by row the same images, float, shape (batch, dim).
        queue: Unit vectors of other images, float, shape (stored, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the batch, scalar, in nats; ln(stored + 1) if all vectors are equal.
    """
    queries = F.normalize(queries, dim=1)
    positive = (queries * keys).sum(1) / temperature
    everyone = torch.logaddexp(positive, log_partition(queries, queue, 1 / temperature))
    return (everyone - positive).mean()


@full_precision
def in_batch(predictions: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the targets of all processes.

    Args:
        predictions: Float, shape (rows, dim); only their directions count.
        targets: Row by row what is to be predicted, float, shape (rows, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the rows of this process, scalar, in nats; ln(rows of all processes) if all vectors are equal.
    """
    everyone = gather.gather(F.normalize(targets, dim=1))
    similarity = F.normalize(predictions, dim=1) @ everyone.T / temperature
    return F.cross_entropy(similarity, gather.own_rows(len(targets), targets.device))


@torch.no_grad()
def nearest(predictions: Tensor, targets: Tensor) -> Tensor:
    """Index, among the targets of all processes, of the one nearest to each prediction, int64, shape (rows,)."""
    everyone = gather.gather(F.normalize(targets, dim=1))
    return (F.normalize(predictions, dim=1) @ everyone.T).argmax(1)


def negatives(lengths: Tensor, size: int, count: int) -> Tensor:
    """Random other positions for each position of a sequence, all equally likely, drawn with replacement.

    Args:
        lengths: Real positions of each sequence, int64, shape (batch,); below 2 there is no other.
        size: Positions of the padded sequences.
        count: Number of negatives.

    Returns:
        Indices of positions of the same sequence, int64, shape (batch, size, count).
    """
    others = (lengths - 1).clamp(min=1)[:, None, None]
    index = torch.rand(len(lengths), size, count, device=lengths.device).mul(others).long()
    index = index.minimum(others - 1)
    own = torch.arange(size, device=lengths.device)[:, None]
    return (index + (index >= own)).clamp(max=size - 1)


@full_precision
def cosines(predictions: Tensor, targets: Tensor) -> Tensor:
    """Cosine of each prediction and each target, float, shape (batch, size, size), of (batch, size, dim)."""
    return F.normalize(predictions, dim=2) @ F.normalize(targets, dim=2).mT


def first_of(logits: Tensor, mask: Tensor) -> Tensor:
    """InfoNCE whose positive is the first of the candidates.

    Args:
        logits: Float, shape (batch, size, candidates).
        mask: Which positions count, bool, shape (batch, size).

    Returns:
        Mean over the positions of all processes that count, scalar, in nats; ln(candidates) if all logits are equal.
    """
    return gather.mean(logits.logsumexp(2) - logits[:, :, 0], mask)
