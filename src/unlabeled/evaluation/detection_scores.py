"""Scores of detections: AP of COCO, and the 11-point AP of PASCAL VOC 2007, over any of the images.

COCO's AP is computed by pycocotools from what it matches in each image, and VOC's from matches made here. Difficult
things do not count: neither as missed, nor what is found at them.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from unlabeled.data.image.annotated import Things
from unlabeled.evaluation.average_precision import eleven_points, mean_of_known

__all__ = ["UNITS", "Detections", "Scorer", "voc_matches"]

UNITS = ("AP50", "AP", "AP75", "11-point AP50")
OVERLAP = 0.5
"""Least intersection over union of a detection and a thing in VOC."""


class Detections(NamedTuple):
    """What was detected in one image.

    Attributes:
        boxes: Edges in pixels of the original image, float64, shape (detections, 4).
        labels: int64, shape (detections,).
        scores: Float, shape (detections,).
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def voc_matches(detections: Detections, things: Things, label: int) -> tuple[Tensor, Tensor]:
    """Which detections of a class are right, as VOC has it.

    From the highest score to the lowest, each is compared with the thing that it overlaps most: it is right where that
    is by half at least, and no better one was right there before. Those at difficult things are omitted.

    Returns:
        Scores, and whether they are right, bool, shape (detections that count,) each.
    """
    own, true = detections.labels == label, things.labels == label
    scores, boxes = detections.scores[own], detections.boxes[own]
    order = scores.argsort(descending=True, stable=True)
    targets, difficult = things.boxes[true], things.difficult[true].tolist()
    overlaps = box_iou(boxes.double(), targets.double())
    matches, places, right = set(), [], []
    for place in order.tolist():
        best = int(overlaps[place].argmax()) if len(targets) else -1
        near = best >= 0 and float(overlaps[place, best]) >= OVERLAP
        if near and difficult[best]:
            continue
        places.append(place)
        right.append(near and best not in matches)
        matches.add(best if near else None)
    return scores[torch.tensor(places, dtype=torch.int64)], torch.tensor(right, dtype=torch.bool)


class Scorer:
    """Detections beside the true things of the same images.

    Args:
        things: True things of each image.
        detections: What was detected in each.
        classes: Names of the classes.
    """

    def __init__(
        self, things: Sequence[Things], detections: Sequence[Detections], classes: Sequence[str]
    ) -> None:
        self.classes = list(classes)
        self.evaluator = _evaluator(things, detections, len(classes))
        self.matched = [*self.evaluator.evalImgs]
        """What pycocotools found of each class in each image, the images of a class one after the other."""
        self.images = len(things)
        self.matches = [
            [voc_matches(*pair, label) for pair in zip(detections, things)] for label in range(len(classes))
        ]
        self.totals = torch.tensor(
            [
                [int((one.labels[~one.difficult] == label).sum()) for one in things]
                for label in range(len(classes))
            ]
        ).view(len(classes), len(things))

    def by_class(self, rows: Tensor) -> list[list[float]]:
        """Scores of each class on some images, NaN where it is in none of them, one list for each of `UNITS`.

        Args:
            rows: The images, int64, shape (rows,).
        """
        chosen = {*rows.tolist()}
        self.evaluator.evalImgs = [
            match if number % self.images in chosen else None for number, match in enumerate(self.matched)
        ]
        with _silence():
            self.evaluator.accumulate()
        # Shape (overlaps from .5 to .95, recalls, classes); -1 where a class is in no image.
        precision = torch.from_numpy(self.evaluator.eval["precision"])[..., 0, 0]
        every = torch.where(precision.amin((0, 1)) < 0, math.nan, precision.mean(1))
        return [every[0].tolist(), every.mean(0).tolist(), every[5].tolist(), self._voc(rows)]

    def _voc(self, rows: Tensor) -> list[float]:
        values = []
        for matches, totals in zip(self.matches, self.totals):
            scores, right = (torch.cat(part) for part in zip(*(matches[row] for row in rows.tolist())))
            values.append(eleven_points(scores, right, float(totals[rows].sum())))
        return values

    def statistics(self, rows: Tensor) -> list[float]:
        """Means over classes on some images, one for each of `UNITS`."""
        return [mean_of_known(values) for values in self.by_class(rows)]


def _evaluator(things: Sequence[Things], detections: Sequence[Detections], classes: int) -> Any:
    """An evaluator of pycocotools that has matched all images."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": number} for number in range(len(things))]
    annotations = [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": int(hard)}
        for image, one in enumerate(things)
        for box, label, hard in zip(_sized(one.boxes), one.labels.tolist(), one.difficult.tolist())
    ]
    results = [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "score": score}
        for image, one in enumerate(detections)
        for box, label, score in zip(_sized(one.boxes), one.labels.tolist(), one.scores.tolist())
    ]
    categories = [{"id": label} for label in range(classes)]
    with _silence():
        documents: list[Any] = []
        for entries in (annotations, results):
            document: Any = COCO()
            numbered = [entry | {"id": number} for number, entry in enumerate(entries, 1)]
            document.dataset = {"images": images, "annotations": numbered, "categories": categories}
            document.createIndex()
            documents.append(document)
        evaluator: Any = COCOeval(documents[0], documents[1], "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [100]
        evaluator.evaluate()
    return evaluator


def _sized(boxes: Tensor) -> list[list[float]]:
    """Left and top edge, width and height."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the lines that pycocotools prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
