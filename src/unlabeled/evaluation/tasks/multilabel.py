"""Images with several classes: which classes are in an image, as in PASCAL VOC classification.

For each class the test images are ranked by its score; the mean over classes of the average precision is taken without
interpolation and by VOC's 11-point rule of 2007. An image in which all things of a class are difficult does not count
for it. Classes are those of boxes, or of masks where there are none.

Trained is `frozen`: a logistic regression for each class on the frozen output of the network; or with random views
`head`: its fully connected layers, where it has some; the name of a map: that and all after it; `all`.

The controls are the same network with random weights and with these rescaled, and the frequency of each class.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data.image.annotated import AnnotatedImages
from unlabeled.encoders import ImageEncoder
from unlabeled.evaluation import logistic, transfer
from unlabeled.evaluation.average_precision import average_precision, eleven_points, mean_of_known
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.probes.finetune import view_of
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.transfer import Predictions
from unlabeled.evaluation.twins import calibrate_

__all__ = ["TASK", "UNITS", "measure", "precisions"]

UNITS = ("mean AP", "11-point mean AP")
STEPS, BATCH = 200, 16
TEST_BATCH = 64


def precisions(scores: Tensor, present: Tensor) -> list[list[float]]:
    """Average precision of each class, without interpolation and by the 11-point rule.

    Args:
        scores: Float, shape (images, classes).
        present: 1 where a class is present, 0 where absent, -1 where it does not count, shape (images, classes).

    Returns:
        Two lists of a number for each class, NaN where it is in no image.
    """
    columns = [(own[known >= 0], known[known >= 0] == 1) for own, known in zip(scores.T, present.T)]
    return [[score(*column) for column in columns] for score in (average_precision, eleven_points)]


def measure(model: EvaluatedModel, parts: Parts) -> Iterator[Measurement]:
    """Mean average precision of ours and of the controls.

    Args:
        model: What is measured; its encoder reads images.
        parts: Annotated images.
    """
    images, test = transfer.annotated(parts)
    steps = model.steps or STEPS
    learn = partial(_learn, images=images.to(model.device), test=test.to(model.device), steps=steps)
    answers = test.present()
    constant = torch.zeros(answers.shape)
    detail = f"{steps} steps of {BATCH} images unless frozen, {model.encoder.config['image_size']} px"
    yield from transfer.measure(
        model, parts, "multilabel", UNITS, learn, train=("frozen", "all"), frozen=True, detail=detail,
        controls={"class frequency": _predictions(constant, answers, test.classes or [])},
    )  # fmt: skip


def _predictions(scores: Tensor, answers: Tensor, classes: list[str]) -> Predictions:
    scores = scores.double().cpu()

    def statistics(rows: Tensor) -> list[float]:
        return [mean_of_known(own) for own in precisions(scores[rows], answers[rows])]

    known = [
        {name: value for name, value in zip(classes, own) if not math.isnan(value)}
        for own in precisions(scores, answers)
    ]
    return Predictions(statistics, known)


def _learn(
    encoder: ImageEncoder,
    part: str,
    rows: Tensor,
    seed: int,
    *,
    images: AnnotatedImages,
    test: AnnotatedImages,
    steps: int,
) -> Predictions:
    fit = _fit_frozen if part == "frozen" else partial(_train, part=part, steps=steps)
    return _predictions(
        fit(encoder, rows, seed, images=images, test=test), test.present(), test.classes or []
    )


def _fit_frozen(
    encoder: ImageEncoder, rows: Tensor, seed: int, *, images: AnnotatedImages, test: AnnotatedImages
) -> Tensor:
    """Scores of the test images by a logistic regression for each class, float, shape (images, classes)."""
    features = Representation("", of_encoder(encoder), encoder)
    known, statistics = images.present()[rows].to(images.device), features.statistics(images)
    points, tested = features.features(images)[rows.to(images.device)], features.features(test)
    scores = []
    for labels in known.T:
        given = labels >= 0
        if len(labels[given].unique()) < 2:  # nothing tells images with it from images without
            scores.append(tested.new_zeros(len(tested)))
            continue
        classifier = logistic.fit(points[given], labels[given], 2, statistics=statistics, seed=seed)
        scores.append(classifier(tested).diff(dim=1)[:, 0])
    return torch.stack(scores, 1)


def _train(
    encoder: ImageEncoder,
    rows: Tensor,
    seed: int,
    *,
    part: str,
    steps: int,
    images: AnnotatedImages,
    test: AnnotatedImages,
) -> Tensor:
    """Scores of the test images after training, float, shape (images, classes)."""
    classifier = nn.Linear(encoder.dim, len(images.classes or ())).to(images.device)
    calibrate_(encoder, images)
    transfer.limit_training_(encoder, part)
    view, present = view_of(encoder, None), images.present().to(images.device)

    def loss(index: Tensor) -> Tensor:
        labels = present[index.to(present.device)]
        logits = classifier(encoder(view(images.batch(index)))).float()
        losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).float(), reduction="none")
        return losses[labels >= 0].sum() / (labels >= 0).sum().clamp(min=1)

    transfer.fit([encoder, classifier], loss, rows, steps, BATCH, "training on labels")
    with torch.no_grad():
        return torch.cat([classifier(encoder(encoder.inputs(batch))) for batch in test.batches(TEST_BATCH)])


def _open(source: Source) -> Parts:
    return transfer.open_annotated(source, "boxes", "masks")


TASK = Task(measure, _open, kinds=("image",))
