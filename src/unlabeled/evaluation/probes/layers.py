"""Linear probe, layer by layer: on every named map, and on the one that held-out training labels choose.

The best of many layers on the test set would flatter, so that only the chosen one counts.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.evaluation.probes import linear
from unlabeled.evaluation.verdict import CHOSEN

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["CHOSEN_BY_LABELS", "PROBE", "choose", "chosen_layer", "held_out_loss", "probe"]

CHOSEN_BY_LABELS = "chosen on held-out training labels"


def layers(encoder: "Encoder") -> list[str | None]:
    """All named maps; the chosen one is last, so that the features of every map are known by then."""
    return [*encoder.map_dims, CHOSEN]


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """The linear probe on a map, or on the one that the labels at hand, and nothing of the test data, choose."""
    if layer != CHOSEN:
        return linear.probe(representation, data, rows, layer, settings)
    if representation.encoder is None:  # the input has no layers
        return linear.probe(representation, data, rows, None, settings)
    layer, reason = chosen_layer(representation, data, rows, settings.seed)
    predicted, _ = linear.probe(representation, data, rows, layer, settings)
    return predicted, f"{layer}, {reason}"


def chosen_layer(
    representation: Representation, data: Labelled, rows: Tensor, seed: int, most: int | None = None
) -> tuple[str, str]:
    """The map of an encoder that labels choose, by a linear probe of some on others, and the reason in words.

    Args:
        representation: Features of an encoder.
        data: Training samples; test samples are not looked at.
        rows: Training samples whose labels may be used, int64, shape (labels,).
        seed: Seed of the splits.
        most: Labels looked at, drawn at random where there are more; None for all.
    """
    assert representation.encoder is not None
    if most is not None and len(rows) > most:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]]
    rows = rows.to(data.labels.device)
    groups = None if data.train.groups is None else data.train.groups[rows.cpu()]

    def loss(name: str) -> float:
        return held_out_loss(
            representation.features(data.train, name)[rows],
            data.labels[rows],
            len(data.classes),
            statistics=representation.statistics(data.train, name),
            groups=groups,
            seed=seed,
        )

    return choose(list(representation.encoder.map_dims), loss)


def choose(names: Sequence[str], loss: Callable[[str], float]) -> tuple[str, str]:
    """The layer with the lowest held-out loss.

    Args:
        names: The layers, from the input to the output.
        loss: Held-out loss of a layer, NaN where the labels leave nothing to hold out.

    Returns:
        The layer, and the reason in words. Where no loss is a number it is the last layer.
    """
    losses = {name: loss(name) for name in names}
    finite = [name for name in names if losses[name] == losses[name]]
    if not finite:
        return names[-1], "the last, as with one label per class nothing can be held out to choose by"
    return min(finite, key=losses.__getitem__), CHOSEN_BY_LABELS


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
        statistics: As in `logistic.fit`.
        groups: Group of each sample, int64, shape (samples,), held out as a whole; None where samples are independent.
        seed: Seed of the split.

    Returns:
        Mean over five folds in nats, from `logistic.HOLD_OUT_FROM` labels on over one; NaN where no class has two
        labels or lies in two groups.
    """
    fold, count = logistic.group_folds(labels, groups, seed)
    if count < 2:
        return torch.nan
    losses = []
    for held_out in range(1 if len(labels) >= logistic.HOLD_OUT_FROM else count):
        rest, tested = fold != held_out, fold == held_out
        tested &= torch.isin(
            labels, labels[rest]
        )  # a class without training labels says nothing about the layer
        classifier = logistic.fit(features[rest], labels[rest], classes, statistics=statistics, seed=seed)
        losses.append(F.cross_entropy(classifier(features[tested]), labels[tested], reduction="none"))
    return float(torch.cat(losses).mean())


PROBE = Probe(probe, layers=layers)
