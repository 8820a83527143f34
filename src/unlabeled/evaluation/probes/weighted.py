"""Weighted layers: the linear probe on a sum of all layers, whose weights are learned with it.

The weights are a softmax, one number per layer for all samples, and say which layers carry the classes. Layers are
standardised before they are summed. The weights descend from equal ones, each time with the best classifier for them;
then the classifier is fitted once more with a penalty of its own. Layers whose width differs from that of the last are
left out. Where a layer alone separates all labels, a weight near 1 says that its margin is the largest, not that the
other layers lack the classes; the probe `layers` shows those.

Source: Yang and others, "SUPERB: Speech processing Universal PERformance Benchmark", 2021,
https://arxiv.org/abs/2105.01051
Differs: vectors of the layers are pooled before the classifier, which for a linear one is the same; no hidden
projection; fitted to the optimum with a penalty on the classifier instead of for a number of steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.evaluation import lbfgs, logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.evaluation.probes import linear
from unlabeled.progress import watched

__all__ = ["PROBE", "layer_weights", "probe", "summed"]

LABELS = 5000
"""Most labels by which layers are weighted, drawn at random; the classifier gets all."""
STEPS = 20
"""Most steps of L-BFGS for the weights, each of which fits a classifier or more."""


def summed(layers: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of layers, float, shape (samples, dim).

    Args:
        layers: Float, shape (layers, samples, dim).
        weights: Float, shape (layers,).
    """
    return torch.einsum("lnd,l->nd", layers, weights)


@torch.no_grad()
def layer_weights(layers: Tensor, labels: Tensor, classes: int, *, penalty: float, seed: int = 0) -> Tensor:
    """Weights for which the penalised cross-entropy of a linear classifier on the sum of layers is lowest.

    Args:
        layers: Standardised features of each layer, float, shape (layers, samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        penalty: Factor of half the squared weights of the classifier.
        seed: Seed of the classifier's fit.

    Returns:
        Float, shape (layers,), above 0, of sum 1. The problem has several optima: this is the one that descent from
        equal weights reaches.
    """
    ticks = watched(range(2 * STEPS), 2 * STEPS, "weighting layers", "fits at most")

    def loss(state: Tensor) -> tuple[float, Tensor]:
        """Of the best classifier for these weights. It is at its optimum, so that only the weights have a slope."""
        next(ticks, None)
        classifier = _fit(summed(layers, state.softmax(0)), labels, classes, seed, penalty)
        with torch.enable_grad():
            state = state.detach().requires_grad_()
            logits = summed(layers @ classifier.weight, state.softmax(0)) + classifier.bias
            value = F.cross_entropy(logits, labels)
            (slope,) = torch.autograd.grad(value, state)
        return float(value) + penalty / 2 * float(classifier.weight.square().sum()), slope

    equal = layers.new_zeros(len(layers))
    unit, _ = loss(equal)  # as the first step is as long as the slope

    def scaled(state: Tensor) -> tuple[float, Tensor]:
        value, slope = loss(state)
        return value / unit, slope / unit

    return lbfgs.minimum(scaled, equal, STEPS).softmax(0)


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """The linear probe on the weighted sum; on a single map, or without a network, the linear probe itself."""
    if representation.encoder is None or layer is not None:
        return linear.probe(representation, data, rows, layer, settings)
    names = list(representation.encoder.map_dims)
    train = {name: representation.features(data.train, name) for name in names}
    equal = [name for name in names if train[name].shape == train[names[-1]].shape]
    standards = [representation.statistics(data.train, name) for name in equal]
    layers, tests = (
        torch.stack(
            [
                (representation.features(part, name) - mean) / scale
                for name, (mean, scale) in zip(equal, standards)
            ]
        )
        for part in (data.train, data.test)
    )
    rows = rows.to(data.labels.device)
    layers, labels, classes, seed = layers[:, rows], data.labels[rows], len(data.classes), settings.seed
    some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:LABELS].sort().values
    few, answers = layers[:, some.to(rows.device)], labels[some.to(rows.device)]
    penalty = _fit(few.mean(0), answers, classes, seed).penalty
    weights = layer_weights(few, answers, classes, penalty=penalty, seed=seed)
    classifier = _fit(summed(layers, weights), labels, classes, seed)
    words = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(equal, weights.tolist()))
    others = [name for name in names if name not in equal]
    words += f" (without {', '.join(others)}, of other widths)" if others else ""
    predicted = classifier(summed(tests, weights)).argmax(1)
    return predicted, f"{words}; penalty {classifier.penalty:g} {classifier.reason}"


def _fit(
    features: Tensor, labels: Tensor, classes: int, seed: int, penalty: float | None = None
) -> logistic.Linear:
    """A classifier on sums as they are: standardising these too would undo the weights."""
    statistics = torch.zeros_like(features[0]), torch.ones_like(features[0])
    return logistic.fit(features, labels, classes, penalty=penalty, statistics=statistics, seed=seed)


PROBE = Probe(probe, tells="all")
