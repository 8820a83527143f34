"""Linear probe: multinomial logistic regression on frozen features, solved to the optimum in seconds.

The features are standardised and turned into their principal axes, where the problem is nearly round: L-BFGS,
started at the least-squares solution, then needs few steps, and all penalties and folds share each product.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from unlabeled import check

__all__ = ["FIXED_PENALTY", "PENALTIES", "Linear", "fit", "folds", "standardization"]

PENALTIES = tuple(10.0**power for power in range(-5, 2))
FIXED_PENALTY = 0.01
"""Where one label per class leaves nothing to choose by."""
CHOOSING, SOLVING = 20, 200
"""Most steps of L-BFGS, for choosing the penalty and for the fit that is kept."""
HOLD_OUT_FROM = 1000
"""Labels from which one fifth held out says enough, and five folds are not worth their time."""
SHARES = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}


@dataclass(frozen=True)
class Linear:
    """A linear classifier on features.

    Attributes:
        weight: Float, shape (dim, classes), for features as they come.
        bias: Float, shape (classes,).
        penalty: Factor of half the squared weights (of standardised features) beside the mean loss in nats.
        chosen: How the penalty was found, in words.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    chosen: str

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, float, shape (samples, classes), of features, float, shape (samples, dim)."""
        return features @ self.weight + self.bias


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each feature; a feature that does not vary gets an infinite scale and so counts as 0.

    Args:
        features: Float, shape (samples, dim).

    Returns:
        Mean and standard deviation, float, shape (dim,) each.
    """
    mean, spread = features.mean(0), features.std(0, correction=0)
    return mean, spread.masked_fill(spread <= 1e-6 * mean.abs(), torch.inf)


def folds(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Deal samples into folds so that each class is spread evenly.

    Args:
        labels: Class of each sample, int64, shape (samples,).
        count: Number of folds.
        seed: Seed of the order in which samples are dealt.

    Returns:
        Fold of each sample, int64, shape (samples,), on the CPU.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    dealt = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    return torch.empty_like(dealt).scatter_(0, dealt, torch.arange(len(labels)) % count)


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    penalty: float | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> Linear:
    """Fit a linear classifier; its penalty is chosen on a split of these labels and on nothing else.

    Args:
        features: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes, those without a sample included.
        penalty: Factor of half the squared weights, above 0; None chooses it by five folds, from 1,000 labels
            on by the first of them alone, with fewer folds where no class has five labels; it is
            `FIXED_PENALTY` where no class has two.
        statistics: Mean and scale by which features are standardised; None takes them from `features`.
        seed: Seed of the split.

    Returns:
        The classifier for features that are not standardised.

    Raises:
        ValueError: `penalty` is not above 0.
    """
    mean, scale = statistics or standardization(features)
    axes = _principal_axes((features - mean) / scale)
    points = ((features - mean) / scale) @ axes
    chosen, most = "given", int(labels.bincount().max())
    if penalty is None and most < 2:
        penalty, chosen = FIXED_PENALTY, "fixed"
    elif penalty is None:
        count = min(5, most)
        fold = folds(labels, count, seed).to(labels.device)
        tried = 1 if len(labels) >= HOLD_OUT_FROM else count
        penalty = _choose(points, labels, classes, [fold == index for index in range(tried)])
        chosen = f"by a held-out {SHARES[count]}" if tried < count else f"by {count} folds"
    check.positive(penalty=penalty)
    weight, bias = _solve(points, labels, classes, [penalty], points.new_ones(1, len(labels)), SOLVING)
    weight = (axes @ weight[0]) / scale[:, None]
    return Linear(weight, bias[0] - mean @ weight, penalty, chosen)


def _principal_axes(points: Tensor) -> Tensor:
    """Orthonormal axes of the space the points span, shape (dim, axes); a linear probe never leaves it."""
    samples, dim = points.shape
    small = points @ points.T if samples < dim else points.T @ points
    variances, vectors = torch.linalg.eigh(small.double() if len(small) <= 1024 else small)
    keep = variances > variances[-1].clamp_min(1e-30) * 1e-7
    variances, vectors = variances[keep].to(points), vectors[:, keep].to(points)
    return points.T @ (vectors / variances.sqrt()) if samples < dim else vectors


def _choose(points: Tensor, labels: Tensor, classes: int, held_out: list[Tensor]) -> float:
    """The penalty with the lowest loss on held-out samples."""
    masks = torch.stack([~rows for rows in held_out for _ in PENALTIES]).to(points)
    weight, bias = _solve(points, labels, classes, list(PENALTIES) * len(held_out), masks, CHOOSING)
    losses = torch.zeros(len(PENALTIES), device=points.device)
    for index, rows in enumerate(held_out):
        own = slice(index * len(PENALTIES), (index + 1) * len(PENALTIES))
        logits = (
            einsum(points[rows], weight[own], "samples axes, b axes classes -> b samples classes")
            + bias[own, None]
        )
        losses += F.cross_entropy(
            rearrange(logits, "b samples classes -> samples classes b"),
            labels[rows][:, None].expand(-1, len(PENALTIES)),
            reduction="none",
        ).sum(0)
    return PENALTIES[int(losses.argmin())]


def _solve(
    points: Tensor, labels: Tensor, classes: int, penalties: list[float], masks: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Minimise mean cross-entropy + penalty / 2 * |weight|^2 for several penalties and subsets at once.

    Args:
        points: Float, shape (samples, axes), nearly uncorrelated along the axes.
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        penalties: One per problem.
        masks: 1 where a sample belongs to the problem, else 0, float, shape (problems, samples).
        iterations: Most steps of L-BFGS.

    Returns:
        Weights, shape (problems, axes, classes), and biases, shape (problems, classes).
    """
    penalty = torch.tensor(penalties, device=points.device, dtype=points.dtype)[:, None, None]
    target = F.one_hot(labels, classes).to(points)
    share = (masks / masks.sum(1, keepdim=True))[:, :, None]
    variance = (share * points.square()).sum(1)[:, :, None]
    # The curvature where all classes are equally likely: dividing by its root makes the problem nearly round.
    shrink = (variance / classes + penalty).rsqrt()
    prior = (share * target).sum(1, keepdim=True)
    start = shrink * einsum(
        share * (target - prior), points, "b samples classes, samples axes -> b axes classes"
    )
    state = torch.cat([start, torch.log(prior.clamp_min(1e-4))], 1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [state], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-6, tolerance_change=1e-9,
    )  # fmt: skip

    def loss() -> Tensor:
        weight, bias = state[:, :-1].detach() * shrink, state[:, -1:].detach()
        logits = einsum(points, weight, "samples axes, b axes classes -> b samples classes") + bias
        log_likelihood = logits.log_softmax(-1)
        error = share * (log_likelihood.exp() - target)
        gradient = (
            einsum(points, error, "samples axes, b samples classes -> b axes classes") + penalty * weight
        )
        state.grad = torch.cat([gradient * shrink, error.sum(1, keepdim=True)], 1)
        return -(share * target * log_likelihood).sum() + (penalty * weight.square()).sum() / 2

    optimizer.step(loss)
    state = state.detach()
    return state[:, :-1] * shrink, state[:, -1]
