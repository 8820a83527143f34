"""Multinomial logistic regression on frozen features, solved to the optimum in seconds.

Steps of L-BFGS are measured along the principal axes of the features and those of the classes, where the problem
is nearly round, so that few are needed. Penalties are tried from the middle outwards, each from the last solution.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.evaluation import lbfgs
from unlabeled.evaluation.features import BLOCK, standardization
from unlabeled.kernels.matmul import matmul_nt

__all__ = [
    "FIXED_PENALTY",
    "HOLD_OUT_FROM",
    "PENALTIES",
    "Linear",
    "fit",
    "folds",
    "group_folds",
    "held_out_loss",
]

PENALTIES = tuple(10.0**power for power in range(-5, 2))
FIXED_PENALTY = 0.01
"""Where one label per class leaves nothing to choose by."""
ROUGH, CHOOSING, SOLVING = 8, 5, 200
"""Most steps of L-BFGS: before the axes of the classes are recomputed, for choosing the penalty, for the final fit."""
ROUGHLY = 8192
"""About how many samples the first steps look at."""
HOLD_OUT_FROM = 1000
"""Labels from which one fifth held out says enough, and five folds are not worth their time."""
Basis = tuple[Tensor, Tensor]
"""Orthonormal axes, shape (dim, axes), and the mean square of the points along each, shape (axes,)."""
Solution = tuple[Tensor, Tensor]
"""Weights, shape (problems, classes, dim), and biases, shape (problems, classes, 1)."""
FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}


class Linear(NamedTuple):
    """A linear classifier on features.

    Attributes:
        weight: Float, shape (dim, classes), for features as they come.
        bias: Float, shape (classes,).
        penalty: Factor of half the squared weights (of standardised features) beside the mean loss in nats.
        reason: How the penalty was chosen, in words.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    reason: str

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, float, shape (samples, classes), of features, float, shape (samples, dim)."""
        return features @ self.weight + self.bias


class Problems(NamedTuple):
    """Subsets of the same samples, to be fitted at once.

    Attributes:
        points: Standardised features, float, shape (samples, dim).
        target: 1 for the class of each sample, else 0, float, shape (classes, samples).
        mass: Weight of each sample in the mean of each problem, float, shape (problems, samples); rows sum to 1.
        basis: Principal axes of the points and their variances.
    """

    points: Tensor
    target: Tensor
    mass: Tensor
    basis: Basis

    def thinned(self) -> "Problems":
        """The problems on samples that are enough to look at roughly."""
        some = slice(None, None, max(1, len(self.points) // ROUGHLY))
        mass = self.mass[:, some] / self.mass[:, some].sum(1, keepdim=True)
        return Problems(self.points[some], self.target[:, some], mass, self.basis)


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


def group_folds(labels: Tensor, groups: Tensor | None, seed: int = 0) -> tuple[Tensor, int]:
    """Deal samples into at most five folds, groups as a whole.

    Args:
        labels: Class of each sample, int64, shape (samples,).
        groups: Group of each sample, int64, shape (samples,); None where samples are independent.
        seed: Seed of the order in which they are dealt.

    Returns:
        Fold of each sample, int64, shape (samples,), on the device of the labels, and how many folds there are: below
        2 where no class has two labels, or all are of one group.
    """
    count = min(5, int(labels.bincount().max()))
    fold = folds(labels, max(1, count), seed)
    if groups is not None:
        _, number = groups.cpu().unique(return_inverse=True)
        parts = int(number.max()) + 1
        count = min(count, parts)
        order = torch.randperm(parts, generator=torch.Generator().manual_seed(seed))
        fold = (order % max(1, count))[number]
    return fold.to(labels.device), count


@torch.no_grad()
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
    points, basis, axes = _points(features, mean, scale)
    reason, start = "given", None
    if penalty is None:
        penalty, reason, start, _ = _choose(points, labels, classes, basis, group_folds(labels, None, seed))
    check.positive(penalty=penalty)
    mass = points.new_full((1, len(points)), 1 / len(points))
    problem = Problems(points, _one_hot(labels, classes, points), mass, basis)
    weight, bias = _solve(problem, penalty, SOLVING, start)
    weight = (weight[0].T if axes is None else axes @ weight[0].T) / scale[:, None]
    return Linear(weight, bias[0, :, 0] - mean @ weight, penalty, reason)


@torch.no_grad()
def held_out_loss(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    statistics: tuple[Tensor, Tensor],
    groups: Tensor | None = None,
    seed: int = 0,
) -> float:
    """Cross-entropy on held-out labels with the penalty for which it is lowest, to compare features by.

    Labels of a class without any in the rest say nothing about the features and are not counted.

    Args:
        features: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        statistics: Mean and scale by which features are standardised.
        groups: Group of each sample, int64, shape (samples,), held out as a whole; None where samples are independent.
        seed: Seed of the split.

    Returns:
        Mean in nats, over the folds of `fit`; NaN where no class has two labels or lies in two folds.
    """
    points, basis, _ = _points(features, *statistics)
    return _choose(points, labels, classes, basis, group_folds(labels, groups, seed))[3]


def _points(features: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Basis, Tensor | None]:
    """Standardised points, their basis, and, where they are few, the axes of the space in which they are given."""
    features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    points = features.sub(mean).div_(scale)
    axes, variances = _principal_axes(points)
    if len(points) < points.shape[1]:  # the space that few samples span is the smaller one
        return points @ axes, (torch.eye(len(variances)).to(axes), variances), axes
    return points, (axes, variances), None


def _principal_axes(points: Tensor) -> Basis:
    """Axes of the space that the points span; a linear probe never leaves it."""
    samples, dim = points.shape
    if samples < dim:
        small = points @ points.T
    else:
        small = points.new_zeros(dim, dim)
        for rows in points.split(BLOCK):
            columns = rows.T.contiguous()
            small += matmul_nt(columns, columns)
    variances, vectors = torch.linalg.eigh(small.double() if len(small) <= 1024 else small)
    keep = variances > variances[-1].clamp_min(1e-30) * 1e-7
    variances, vectors = variances[keep].to(points), vectors[:, keep].to(points)
    return points.T @ (vectors / variances.sqrt()) if samples < dim else vectors, variances / samples


def _one_hot(labels: Tensor, classes: int, points: Tensor) -> Tensor:
    """1 for the class of each sample, else 0, shape (classes, samples), as the points."""
    return points.new_zeros(classes, len(points)).scatter_(0, labels[None], 1)


def _choose(
    points: Tensor, labels: Tensor, classes: int, basis: Basis, dealt: tuple[Tensor, int]
) -> tuple[float, str, Solution | None, float]:
    """The penalty with the lowest loss on held-out samples, how it was chosen, a solution for it, and the loss."""
    fold, count = dealt
    if count < 2:
        return FIXED_PENALTY, "fixed", None, torch.nan
    tried = 1 if len(labels) >= HOLD_OUT_FROM else count
    held_out = fold == torch.arange(tried, device=fold.device)[:, None]
    counted = held_out & torch.stack([torch.isin(labels, labels[~part]) for part in held_out])
    if not counted.any():
        return FIXED_PENALTY, "fixed", None, torch.nan
    used, unseen = ~held_out.all(0), counted.any(0)
    mass = (~held_out[:, used]).to(points)
    mass /= mass.sum(1, keepdim=True)
    problems = Problems(points[used], _one_hot(labels[used], classes, points[used]), mass, basis)
    tests, answers = points[unseen], labels[unseen]

    def attempt(index: int, start: Solution | None) -> tuple[float, Solution]:
        weight, bias = _solve(problems, PENALTIES[index], CHOOSING, start)
        logits = weight @ tests.T + bias
        losses = F.cross_entropy(logits, answers.expand(len(logits), -1), reduction="none")
        return float(losses[counted[:, unseen]].mean()), (weight, bias)

    index, (weight, bias), loss = _lowest_valley(attempt)
    reason = f"by a held-out {FRACTIONS[count]}" if tried < count else f"by {count} folds"
    return PENALTIES[index], reason, (weight.mean(0, keepdim=True), bias.mean(0, keepdim=True)), loss


def _lowest_valley(
    attempt: Callable[[int, Solution | None], tuple[float, Solution]],
) -> tuple[int, Solution, float]:
    """Number of the penalty of lowest loss, its solution and the loss, from the middle outwards.

    The loss has one valley: where the next penalty is worse, all that follow are.
    """
    middle = index = len(PENALTIES) // 2
    best, solution = attempt(index, None)
    for step in (-1, 1):
        while index == middle or (index > middle) == (step > 0):
            if not 0 <= index + step < len(PENALTIES):
                break
            loss, other = attempt(index + step, solution)
            if loss >= best:
                break
            index, best, solution = index + step, loss, other
    return index, solution, best


def _solve(problems: Problems, penalty: float, iterations: int, start: Solution | None = None) -> Solution:
    """Minimise mean cross-entropy + penalty / 2 * |weight|^2 for several subsets at once.

    Args:
        problems: The subsets.
        penalty: Above 0.
        iterations: Most steps of L-BFGS from the start.
        start: Where to begin; None begins without weights and takes `ROUGH` steps more.
    """
    if start is None:
        prior = problems.mass @ problems.target.T
        weight = prior.new_zeros(*prior.shape, problems.points.shape[1])
        start = weight, prior.clamp_min(1e-4).log()[:, :, None]
        start = _descend(problems.thinned(), penalty, ROUGH, start)
    return _descend(problems, penalty, iterations, start)


def _descend(problems: Problems, penalty: float, iterations: int, start: Solution) -> Solution:
    """Steps of L-BFGS along axes whose lengths are those of the curvature at the start."""
    points, target, mass, (axes, _) = problems
    turns, stretch = _curvature(problems.thinned(), penalty, start)

    def solution(state: Tensor) -> Solution:
        steps = turns @ (state * stretch)
        return steps[:, :, :-1] @ axes.T, steps[:, :, -1:]

    def along_axes(weight: Tensor, bias: Tensor) -> Tensor:
        return turns.mT @ torch.cat([weight @ axes, bias], 2)

    def loss(state: Tensor) -> tuple[float, Tensor]:
        """Summed over the problems, and its gradient."""
        weight, bias = solution(state)
        slope, lift = penalty * weight, torch.zeros_like(bias)
        # Near the optimum, steps change less than single precision holds.
        total = penalty / 2 * weight.square().sum(dtype=torch.float64)
        for rows, hits, part in zip(points.split(BLOCK), target.split(BLOCK, 1), mass.split(BLOCK, 1)):
            part = part[:, None]
            log_likelihood = _logits((weight, bias), rows).log_softmax(1)
            total -= (part * hits * log_likelihood).sum(dtype=torch.float64)
            error = part * (log_likelihood.exp_() - hits)
            slope += matmul_nt(error.flatten(0, 1), rows.T).view_as(slope)
            lift += error.sum(2, keepdim=True)
        return float(total), along_axes(slope, lift) * stretch

    return solution(lbfgs.minimum(loss, along_axes(*start) / stretch, iterations))


def _curvature(problems: Problems, penalty: float, start: Solution) -> tuple[Tensor, Tensor]:
    """Axes of the classes, shape (problems, classes, classes), and step lengths, (problems, classes, axes + 1).

    The curvature is nearly a product of two: the features' second moments and the classes' covariance.
    """
    likelihood = _logits(start, problems.points).softmax(1)
    weighed = problems.mass[:, None] * likelihood
    spreads, turns = torch.linalg.eigh(weighed.sum(2).diag_embed() - weighed @ likelihood.mT)
    spreads = spreads.clamp_min(0.01 * spreads[:, -1:].clamp_min(1e-4))[:, :, None]
    variances = problems.basis[1]
    return turns, torch.cat([(spreads * variances + penalty).rsqrt(), spreads.rsqrt()], 2)


def _logits(solution: Solution, rows: Tensor) -> Tensor:
    """Float, shape (problems, classes, rows)."""
    weight, bias = solution
    return matmul_nt(rows, weight.flatten(0, 1)).T.contiguous().view(*weight.shape[:2], -1).add_(bias)
