"""Linear probe: multinomial logistic regression on frozen features, solved to the optimum in seconds.

Steps of L-BFGS are measured along the principal axes of the features and those of the classes, where the problem
is nearly round, so that few are needed. Penalties are tried from the middle outwards, each from the last solution.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.kernels.matmul import matmul_nt

__all__ = ["FIXED_PENALTY", "PENALTIES", "Linear", "fit", "folds", "standardization"]

PENALTIES = tuple(10.0**power for power in range(-5, 2))
FIXED_PENALTY = 0.01
"""Where one label per class leaves nothing to choose by."""
ROUGH, CHOOSING, SOLVING = 8, 5, 200
"""Most steps of L-BFGS: before the axes of the classes are found again, for choosing the penalty, for the fit that is
kept."""
TOLERANCE = 1e-6
"""How much of the loss the next step may still promise to save at the optimum."""
MEMORY = 20
"""Steps that L-BFGS remembers."""
ROUGHLY = 8192
"""About how many samples the first steps look at."""
BLOCK = 1024
"""Samples that are read once for their logits and gradients, while they lie in the cache."""
HOLD_OUT_FROM = 1000
"""Labels from which one fifth held out says enough, and five folds are not worth their time."""
Basis = tuple[Tensor, Tensor]
"""Orthonormal axes, shape (dim, axes), and the mean square of the points along each, shape (axes,)."""
Solution = tuple[Tensor, Tensor]
"""Weights, shape (problems, classes, dim), and biases, shape (problems, classes, 1)."""
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
    mean = features.mean(0)
    # In blocks that stay in the cache, which torch's own std takes ten times as long for.
    squares = torch.stack([(rows - mean).square().sum(0) for rows in features.split(BLOCK)])
    spread = (squares.sum(0) / len(features)).sqrt()
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
    features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    mean, scale = statistics or standardization(features)
    points = features.sub(mean).div_(scale)
    axes, variances = _principal_axes(points)
    turned = len(points) < points.shape[1]
    if turned:  # the space that few samples span is the smaller one
        points, basis = points @ axes, (torch.eye(len(variances)).to(axes), variances)
    else:
        basis = axes, variances
    chosen, most, start = "given", int(labels.bincount().max()), None
    if penalty is None and most < 2:
        penalty, chosen = FIXED_PENALTY, "fixed"
    elif penalty is None:
        count = min(5, most)
        fold = folds(labels, count, seed).to(labels.device)
        tried = 1 if len(labels) >= HOLD_OUT_FROM else count
        held_out = fold == torch.arange(tried, device=fold.device)[:, None]
        penalty, start = _choose(points, labels, classes, basis, held_out)
        chosen = f"by a held-out {SHARES[count]}" if tried < count else f"by {count} folds"
    check.positive(penalty=penalty)
    share = points.new_full((1, len(points)), 1 / len(points))
    weight, bias = _solve(points, labels, classes, penalty, share, basis, SOLVING, start)
    weight = (axes @ weight[0].T if turned else weight[0].T) / scale[:, None]
    return Linear(weight, bias[0, :, 0] - mean @ weight, penalty, chosen)


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


def _choose(
    points: Tensor, labels: Tensor, classes: int, basis: Basis, held_out: Tensor
) -> tuple[float, Solution]:
    """The penalty with the lowest loss on held-out samples, bool, shape (problems, samples), and a solution for it.

    The loss has one valley: where the next penalty is worse, all that follow are.
    """
    used, judged = ~held_out.all(0), held_out.any(0)
    train, known, unseen, answers = points[used], labels[used], points[judged], labels[judged]
    share = (~held_out[:, used]).to(points)
    share /= share.sum(1, keepdim=True)

    def attempt(place: int, start: Solution | None) -> tuple[float, Solution]:
        weight, bias = _solve(train, known, classes, PENALTIES[place], share, basis, CHOOSING, start)
        logits = weight @ unseen.T + bias
        losses = F.cross_entropy(logits, answers.expand(len(logits), -1), reduction="none")
        return float(losses[held_out[:, judged]].mean()), (weight, bias)

    middle = place = len(PENALTIES) // 2
    best, solution = attempt(place, None)
    for step in (-1, 1):
        while place == middle or (place > middle) == (step > 0):
            if not 0 <= place + step < len(PENALTIES):
                break
            loss, found = attempt(place + step, solution)
            if loss >= best:
                break
            place, best, solution = place + step, loss, found
    weight, bias = solution
    return PENALTIES[place], (weight.mean(0, keepdim=True), bias.mean(0, keepdim=True))


def _solve(
    points: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    share: Tensor,
    basis: Basis,
    iterations: int,
    start: Solution | None = None,
) -> Solution:
    """Minimise mean cross-entropy + penalty / 2 * |weight|^2 for several subsets at once.

    Args:
        points: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        penalty: Above 0.
        share: Of each sample in the mean of each problem, float, shape (problems, samples); rows sum to 1.
        basis: Principal axes of the points and their variances.
        iterations: Most steps of L-BFGS from the start.
        start: Where to begin; None begins without weights and takes `ROUGH` steps more.

    Returns:
        Weights, shape (problems, classes, dim), and biases, shape (problems, classes, 1).
    """
    target = points.new_zeros(classes, len(points)).scatter_(0, labels[None], 1)
    if start is None:
        prior = share @ target.T
        start = points.new_zeros(*prior.shape, points.shape[1]), prior.clamp_min(1e-4).log()[:, :, None]
        some = _some(share)
        part = share[:, some] / share[:, some].sum(1, keepdim=True)
        start = _descend(points[some], target[:, some], penalty, part, basis, ROUGH, start)
    return _descend(points, target, penalty, share, basis, iterations, start)


def _some(share: Tensor) -> slice:
    """Samples that are enough to look at roughly."""
    return slice(None, None, max(1, share.shape[1] // ROUGHLY))


def _descend(
    points: Tensor,
    target: Tensor,
    penalty: float,
    share: Tensor,
    basis: Basis,
    iterations: int,
    start: Solution,
) -> Solution:
    """Steps of L-BFGS along axes whose lengths are those of the curvature at the start."""
    # The curvature is nearly a product of two: the features' second moments and the classes' covariance.
    some = _some(share)
    likelihood = _logits(start, points[some]).softmax(1)
    weighed = share[:, None, some] / share[:, None, some].sum(2, keepdim=True) * likelihood
    spreads, turns = torch.linalg.eigh(weighed.sum(2).diag_embed() - weighed @ likelihood.mT)
    spreads = spreads.clamp_min(0.01 * spreads[:, -1:].clamp_min(1e-4))[:, :, None]
    axes, variances = basis
    stretch = torch.cat([(spreads * variances + penalty).rsqrt(), spreads.rsqrt()], 2)

    def solution(state: Tensor) -> Solution:
        steps = turns @ (state * stretch)
        return steps[:, :, :-1] @ axes.T, steps[:, :, -1:]

    def along_axes(weight: Tensor, bias: Tensor) -> Tensor:
        return turns.mT @ torch.cat([weight @ axes, bias], 2)

    def loss(state: Tensor) -> tuple[float, Tensor]:
        """Summed over the problems, and its slope."""
        weight, bias = solution(state)
        slope, lift = penalty * weight, torch.zeros_like(bias)
        # Near the optimum, steps change less than single precision holds.
        total = penalty / 2 * weight.square().sum(dtype=torch.float64)
        for rows, hits, part in zip(points.split(BLOCK), target.split(BLOCK, 1), share.split(BLOCK, 1)):
            part = part[:, None]
            log_likelihood = _logits((weight, bias), rows).log_softmax(1)
            total -= (part * hits * log_likelihood).sum(dtype=torch.float64)
            error = part * (log_likelihood.exp_() - hits)
            slope += matmul_nt(error.flatten(0, 1), rows.T).view_as(slope)
            lift += error.sum(2, keepdim=True)
        return float(total), along_axes(slope, lift) * stretch

    return solution(_lowest(loss, along_axes(*start) / stretch, iterations))


def _logits(solution: Solution, rows: Tensor) -> Tensor:
    """Float, shape (problems, classes, rows)."""
    weight, bias = solution
    return matmul_nt(rows, weight.flatten(0, 1)).T.contiguous().view(*weight.shape[:2], -1).add_(bias)


def _lowest(loss: Callable[[Tensor], tuple[float, Tensor]], state: Tensor, iterations: int) -> Tensor:
    """Where a convex function above 0, given with its slope, is lowest: L-BFGS, each step tried whole first."""
    value, slope = loss(state)
    memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        step, shares = -slope, []
        for moved, change, curvature in reversed(memory):
            shares.append((moved * step).sum() / curvature)
            step = step - shares[-1] * change
        if memory:
            _, change, curvature = memory[-1]
            step = step * (curvature / change.square().sum())
        for moved, change, curvature in memory:
            step = step + (shares.pop() - (change * step).sum() / curvature) * moved
        promised = -float((slope * step).sum())
        if not promised > TOLERANCE * value:
            break
        length = 1.0
        lower, new_slope = loss(state + step)
        while not lower <= value - 1e-4 * length * promised and length > 1e-3:
            # The parabola through both values and the slope here is lowest there.
            length *= max(0.1, length * promised / (2 * (lower - value + length * promised)))
            lower, new_slope = loss(state + length * step)
        if not lower < value:  # as low as single precision can tell
            break
        moved, change = length * step, new_slope - slope
        curvature = (moved * change).sum()
        if curvature > 0:
            memory.append((moved, change, curvature))
        state, value, slope = state + moved, lower, new_slope
    return state
