"""Linear probe: multinomial logistic regression on frozen features."""

from torch import Tensor

from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings

__all__ = ["PROBE", "fit", "probe"]


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Predict by the classifier that `fit` gives."""
    classifier = fit(representation, data, rows, layer, settings.seed)
    predicted = classifier(representation.features(data.test, layer)).argmax(1)
    return predicted, f"penalty {classifier.penalty:g} {classifier.reason}"


def fit(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, seed: int
) -> logistic.Linear:
    """Fit a linear classifier to some labels, on features standardised by all training samples."""
    rows = rows.to(data.labels.device)
    features, statistics = (
        representation.features(data.train, layer),
        representation.statistics(data.train, layer),
    )
    return logistic.fit(
        features[rows], data.labels[rows], len(data.classes), statistics=statistics, seed=seed
    )


PROBE = Probe(probe)
