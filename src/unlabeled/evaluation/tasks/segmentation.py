"""Segmentation: the class of every pixel, by a fully convolutional head on the maps of the network.

Each map from a stride of 4 pixels upward is scored by a head of its own, and the scores are summed at the finest of
them. The mean over classes of intersection over union is taken over all pixels of the test images together, at the size
of the original masks; void pixels and classes that are nowhere do not count.

The controls are the same network with random weights and with these rescaled, trained alike, and the most frequent
class of the training pixels everywhere.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015,
https://arxiv.org/abs/1411.4038
Differs: the heads are torchvision's, with batch norm and dropout; all maps learn at once.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.utils import draw_segmentation_masks

from unlabeled.data.image.annotated import VOID, AnnotatedImages
from unlabeled.data.image.decode import window
from unlabeled.encoders import ImageEncoder
from unlabeled.evaluation import transfer
from unlabeled.evaluation.average_precision import mean_of_known
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.transfer import Predictions
from unlabeled.evaluation.twins import calibrate_on_
from unlabeled.parts.augment import to_float
from unlabeled.progress import watched

__all__ = ["FCN", "SIZE", "TASK", "UNITS", "confusion", "intersection_over_union", "measure"]

UNITS = ("mean IoU",)
SIZE, STEPS, BATCH = 240, 200, 4
STRIDE = 32
"""Pixels to a multiple of which images are padded."""
OPACITY = 0.7


def confusion(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """How many pixels of each class are predicted as each.

    Args:
        predicted: Class of each pixel, integers, any shape.
        true: The same, `VOID` where it does not count.
        classes: How many there are.

    Returns:
        int64, shape (true classes, predicted classes).
    """
    known = true != VOID
    pairs = true[known].long() * classes + predicted[known].long()
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Intersection over union of each class, NaN where it is nowhere, float64, shape (classes,).

    Args:
        counts: As `confusion` gives them, of one image or summed over several.
    """
    right = counts.diagonal().double()
    return right / (counts.sum(0) + counts.sum(1) - right)


class FCN(nn.Module):
    """Heads on maps of an encoder, whose scores are summed.

    Args:
        encoder: The encoder.
        maps: Names of the maps, the finest one first.
        classes: How many there are.
    """

    def __init__(self, encoder: ImageEncoder, maps: list[str], classes: int) -> None:
        super().__init__()
        self.encoder, self.maps = encoder, maps
        widths = [encoder.map_dims[name] for name in maps]
        self.heads = nn.ModuleList(FCNHead(width, classes) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the pixels of images, float, shape (batch, classes, height, width)."""
        maps = self.encoder.maps(x)
        scores = [head(maps[name]) for name, head in zip(self.maps, self.heads)]
        size = scores[0].shape[2:]
        total = sum(F.interpolate(one, size, mode="bilinear") for one in scores)
        return F.interpolate(total, x.shape[2:], mode="bilinear")  # type: ignore[arg-type]


def measure(model: EvaluatedModel, parts: Parts) -> Iterator[Measurement]:
    """Mean intersection over union of ours and of the controls.

    Args:
        model: What is measured; its encoder reads images and has maps.
        parts: Images with masks.
    """
    train, test = transfer.annotated(parts)
    size, steps = model.size or SIZE, model.steps or STEPS
    encoder: ImageEncoder = model.encoder  # type: ignore[assignment]
    maps = list(transfer.choose_maps(encoder, size, model.transfer.maps))
    named = {"names": model.transfer.maps, "size": size, "steps": steps}
    learn = partial(_learn, train=train.to(model.device), test=test.to(model.device), **named)
    detail = f"{steps} steps of {BATCH} images of {size} px, heads on {', '.join(maps)}, norms fixed"
    yield from transfer.measure(
        model, parts, "segmentation", UNITS, learn, detail=detail, truth=_truth(test),
        controls={"most frequent class": _constant(train, test)},
    )  # fmt: skip


def _predictions(counts: list[Tensor], test: AnnotatedImages, pictures: Tensor | None = None) -> Predictions:
    """Scores from the confusion matrix of each test image."""
    every = torch.stack(counts)

    def statistics(rows: Tensor) -> list[float]:
        return [mean_of_known(intersection_over_union(every[rows].sum(0)).tolist())]

    values = zip(test.classes or (), intersection_over_union(every.sum(0)).tolist())
    return Predictions(statistics, [{name: one for name, one in values if not math.isnan(one)}], pictures)


def _constant(train: AnnotatedImages, test: AnnotatedImages) -> Predictions:
    """The class of most training pixels everywhere."""
    classes = len(test.classes or ())
    pixels = sum(
        train.mask(row, stored=True).flatten().bincount(minlength=VOID + 1) for row in range(len(train))
    )
    best = int(pixels[:classes].argmax())  # type: ignore[index]
    masks = (test.mask(row) for row in range(len(test)))
    return _predictions([confusion(torch.full_like(mask, best), mask, classes) for mask in masks], test)


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
    """Train heads, and as much of the encoder as is to be trained, and predict the test images."""
    maps = list(transfer.choose_maps(encoder, size, names))  # public weights may be of another network
    network = FCN(encoder, maps, len(train.classes or ())).to(train.device)
    sample = torch.arange(len(train))[: 16 * BATCH]
    with torch.no_grad():
        calibrate_on_(
            encoder, lambda: [encoder.maps(inputs(train, index, encoder)) for index in sample.split(BATCH)]
        )
    transfer.limit_training_(encoder, part)

    def loss(index: Tensor) -> Tensor:
        images = inputs(train, index, encoder)
        masks = torch.full((len(index), *images.shape[2:]), VOID, dtype=torch.uint8)
        for own, row in zip(masks, index.tolist()):
            mask = train.mask(row, stored=True)
            own[: mask.shape[0], : mask.shape[1]] = mask
        mirrored = (torch.rand(len(index)) < 0.5).to(images.device)[:, None, None]
        masks = masks.to(images.device)
        images = torch.where(mirrored[:, None], images.flip(3), images)
        masks = torch.where(mirrored, masks.flip(2), masks).long()
        losses = F.cross_entropy(network(images).float(), masks, ignore_index=VOID, reduction="sum")
        return losses / (masks != VOID).sum().clamp(min=1)

    network.heads.train()
    transfer.fit([network], loss, rows, steps, BATCH, "segmentation")
    return _predict(network.eval(), test)


def inputs(data: AnnotatedImages, index: Tensor, encoder: ImageEncoder) -> Tensor:
    """Images in 0..1, padded with zeros to a size that the network takes, float, shape (batch, channels, ...)."""
    images = to_float(data.batch(index)["image"])
    stride = encoder.patch_size or STRIDE
    return F.pad(images, (0, -images.shape[3] % stride, 0, -images.shape[2] % stride))


@torch.no_grad()
def _predict(network: FCN, test: AnnotatedImages) -> Predictions:
    counts, masks = [], []
    for row in watched(range(len(test)), len(test), "segmentation", "test images"):
        logits = network(inputs(test, torch.tensor([row]), network.encoder))
        height, width = test.sizes[row].tolist()
        true = test.mask(row)
        top, left, *inside = window(*true.shape)
        logits = F.interpolate(logits[:, :, :height, :width].float(), inside, mode="bilinear")
        predicted, true = logits[0].max(0).indices.cpu(), true[top : top + inside[0], left : left + inside[1]]
        counts.append(confusion(predicted, true, logits.shape[1]))
        if row < transfer.PICTURES:
            masks.append(predicted)
    return _predictions(counts, test, _painted(test, masks))


def _truth(test: AnnotatedImages) -> Tensor:
    count = min(transfer.PICTURES, len(test))
    return _painted(test, [test.mask(row) for row in range(count)])


def _painted(test: AnnotatedImages, masks: list[Tensor]) -> Tensor:
    """The first test images with masks in the colours of classes, float, shape (images, 3, height, width)."""
    pictures = []
    for row, mask in enumerate(masks):
        image = test.batch(torch.tensor([row]))["image"][0].cpu()[
            :, : test.sizes[row, 0], : test.sizes[row, 1]
        ]
        small = F.interpolate(mask[None, None].byte(), image.shape[1:], mode="nearest-exact")[0, 0]
        classes = torch.arange(len(test.classes or ()))[:, None, None]
        grey = image.float().mean(0, keepdim=True).byte().expand(3, -1, -1)
        pictures.append(draw_segmentation_masks(grey, small == classes, alpha=OPACITY))
    return transfer.side_by_side(pictures)


def _open(source: Source) -> Parts:
    return transfer.open_annotated(source, "masks")


TASK = Task(measure, _open, SIZE, kinds=("image",))
