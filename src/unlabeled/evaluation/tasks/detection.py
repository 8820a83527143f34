"""Detection: boxes around things and their classes, by torchvision's Faster R-CNN on the maps of the network.

A feature pyramid joins the maps from a stride of 4 pixels upward, with anchors 4 and 6 times as large as the stride of
their level; or there is a single map, with anchors from twice its stride to the size of the image. Scores are COCO's AP
(the mean over overlaps of .5 to .95), AP50 and AP75, and VOC's 11-point AP of 2007 at an overlap of .5; each is a mean
over classes.

The controls are the same network with random weights and with these rescaled, trained alike.

Source: Ren, He, Girshick, Sun, "Faster R-CNN", 2015, https://arxiv.org/abs/1506.01497; Lin and others, "Feature Pyramid
Networks for Object Detection", 2017, https://arxiv.org/abs/1612.03144
Differs: widths and numbers of proposals are those for a few small images, and AdamW trains.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.utils import draw_bounding_boxes

from unlabeled import check
from unlabeled.data.image.annotated import AnnotatedImages
from unlabeled.encoders import ImageEncoder
from unlabeled.evaluation import transfer
from unlabeled.evaluation.detection_scores import UNITS, Detections, Scorer
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.transfer import Predictions
from unlabeled.evaluation.twins import calibrate_on_
from unlabeled.parts.augment import to_float
from unlabeled.progress import watched

__all__ = ["SIZE", "TASK", "Backbone", "build", "measure"]

SIZE, STEPS, BATCH = 240, 150, 4
WIDTH, HIDDEN = 64, 256
"""Channels of the pyramid, and numbers that describe a box."""
LEGIBLE, LETTERS = 96, 24
"""Least height and width in pixels of images that names of classes are written into, and letters of a name at most."""
SHOWN = 0.5
"""Least score of detections that pictures show."""
COLOURS = ("#e62828", "#286ef0", "#1eaa50", "#f0aa14", "#a03cc8", "#14b4be")


class Backbone(nn.Module):
    """A feature pyramid on maps of an encoder.

    Args:
        encoder: The encoder.
        maps: Names of the maps, the finest one first.
    """

    def __init__(self, encoder: ImageEncoder, maps: list[str]) -> None:
        super().__init__()
        self.encoder, self.maps, self.out_channels = encoder, maps, WIDTH
        widths = [encoder.map_dims[name] for name in maps]
        self.pyramid = FeaturePyramidNetwork(widths, WIDTH, LastLevelMaxPool() if len(maps) > 1 else None)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name, of images, float, shape (batch, channels, height, width)."""
        maps = self.encoder.maps(x)
        return self.pyramid(OrderedDict((name, maps[name]) for name in self.maps))


def build(encoder: ImageEncoder, maps: dict[str, int], size: int, classes: int) -> FasterRCNN:
    """Faster R-CNN around an encoder.

    Args:
        encoder: The encoder.
        maps: Names of its maps and their strides in pixels, the finest one first.
        size: Shorter side in pixels to which images are resized.
        classes: How many there are beside the background.
    """
    strides = list(maps.values())
    sizes = tuple((4 * stride, 6 * stride) for stride in [*strides, 2 * strides[-1]])
    if len(strides) == 1:
        doublings = range(1, max(2, math.ceil(math.log2(size / strides[0])) + 1))
        sizes = (tuple(strides[0] * 2**power for power in doublings),)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    model = FasterRCNN(
        Backbone(encoder, list(maps)),
        min_size=size,
        max_size=4 * size,
        image_mean=[0.0] * encoder.in_channels,  # the encoder itself adapts images
        image_std=[1.0] * encoder.in_channels,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=250,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=150,
        box_roi_pool=MultiScaleRoIAlign(list(maps), 7, 2),
        box_head=TwoMLPHead(WIDTH * 7**2, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
        box_batch_size_per_image=64,
        box_score_thresh=0.01,
        size_divisible=encoder.patch_size or 32,
    )
    return model.to(next(encoder.parameters()).device)


def measure(model: EvaluatedModel, parts: Parts) -> Iterator[Measurement]:
    """Average precision of ours and of the controls.

    Args:
        model: What is measured; its encoder reads images and has maps.
        parts: Images with boxes.
    """
    train, test = transfer.annotated(parts)
    size, steps = model.size or SIZE, model.steps or STEPS
    encoder: ImageEncoder = model.encoder  # type: ignore[assignment]
    maps = transfer.choose_maps(encoder, size, model.transfer.maps)
    learn = partial(
        _learn,
        train=train.to(model.device),
        test=test.to(model.device),
        names=model.transfer.maps,
        size=size,
        steps=steps,
    )
    kind = "pyramid of" if len(maps) > 1 else "single map"
    detail = f"{steps} steps of {BATCH} images of {size} px, {kind} {', '.join(maps)}, norms fixed"
    yield from transfer.measure(
        model, parts, "detection", UNITS, learn, detail=detail, truth=_pictures(test, _truth(test), 0)
    )


def _learn(
    encoder: ImageEncoder,
    part: str,
    rows: Tensor,
    seed: int,
    *,
    train: AnnotatedImages,
    test: AnnotatedImages,
    names: Sequence[str],
    size: int,
    steps: int,
) -> Predictions:
    """Train a detector, and as much of the encoder as is to be trained, and detect things in the test images."""
    maps = transfer.choose_maps(encoder, size, names)  # public weights may be of another network
    detector = build(encoder, maps, size, len(train.classes or ()))
    sample = range(min(len(train), 16 * BATCH))
    with torch.no_grad():
        calibrate_on_(encoder, lambda: [detector.backbone(_resized(detector, train, row)) for row in sample])
    transfer.limit_training_(encoder, part)
    detector.train()
    encoder.eval()

    def loss(index: Tensor) -> Tensor:
        images, targets = zip(*(_example(train, row, mirrored) for row, mirrored in _mirrored(index)))
        return sum(detector([*images], [*targets]).values())  # type: ignore[return-value]

    transfer.fit([detector], loss, rows, steps, BATCH, "detection")
    detections = _detect(detector.eval(), test)
    assert test.things is not None
    scorer = Scorer(test.things, detections, test.classes or [])
    by_class = [
        {name: value for name, value in zip(scorer.classes, values) if not math.isnan(value)}
        for values in scorer.by_class(torch.arange(len(test)))
    ]
    return Predictions(scorer.statistics, by_class, _pictures(test, detections, SHOWN))


def _mirrored(index: Tensor) -> list[tuple[int, bool]]:
    """Rows, and whether each is mirrored."""
    return [(row, bool(torch.rand(()) < 0.5)) for row in index.tolist()]


def _image(data: AnnotatedImages, row: int) -> Tensor:
    """An image in 0..1, float, shape (channels, height, width)."""
    return to_float(data.batch(torch.tensor([row]))["image"][0])


def _resized(detector: FasterRCNN, data: AnnotatedImages, row: int) -> Tensor:
    images: Any = detector.transform([_image(data, row)])[0]
    return images.tensors


def _example(data: AnnotatedImages, row: int, mirrored: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """An image and its things but for difficult ones, perhaps mirrored left to right."""
    assert data.things is not None
    image, things = _image(data, row), data.things[row]
    known = ~things.difficult
    boxes = data.to_stored(row, things.boxes[known]).float()
    if mirrored:
        image = image.flip(2)
        boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    target = {"boxes": boxes, "labels": things.labels[known] + 1}
    return image, {name: value.to(image.device) for name, value in target.items()}


@torch.no_grad()
def _detect(detector: FasterRCNN, test: AnnotatedImages) -> list[Detections]:
    """What is detected in the test images, in pixels of the original images."""
    detections = []
    for row in watched(range(len(test)), len(test), "detection", "test images"):
        (prediction,) = detector([_image(test, row)])
        boxes, labels, scores = (prediction[name].cpu() for name in ("boxes", "labels", "scores"))
        detections.append(Detections(test.to_original(row, boxes), labels - 1, scores))
    return detections


def _truth(test: AnnotatedImages) -> list[Detections]:
    return [Detections(one.boxes, one.labels, torch.ones(len(one.labels))) for one in test.things or ()]


def _pictures(test: AnnotatedImages, detections: list[Detections], least: float) -> Tensor:
    """The first test images with boxes of at least some score, float, shape (images, 3, height, width).

    Boxes have the colours of their classes and, in images that have room for it, the names.
    """
    names = [check.one_line(str(name)) for name in test.classes or []]
    pictures = []
    for row, detection in enumerate(detections[: transfer.PICTURES]):
        image = (_image(test, row).cpu() * 255).byte()
        if len(image) != 3:
            image = image.float().mean(0, keepdim=True).byte().expand(3, -1, -1)
        shown = detection.scores >= least
        if shown.any():
            labels, boxes = detection.labels[shown].tolist(), test.to_stored(row, detection.boxes[shown])
            colours = [COLOURS[label % len(COLOURS)] for label in labels]
            legible = bool(names) and min(image.shape[1:]) >= LEGIBLE
            words = [names[label][:LETTERS] for label in labels] if legible else None
            image = draw_bounding_boxes(image, boxes, words, colors=colours, width=2, fill_labels=legible)
        pictures.append(image)
    return transfer.side_by_side(pictures)


def _open(source: Source) -> Parts:
    return transfer.open_annotated(source, "boxes")


TASK = Task(measure, _open, SIZE, kinds=("image",))
