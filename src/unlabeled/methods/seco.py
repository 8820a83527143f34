"""SeCo: recognise places in three spaces, invariant to time and augmentation, only time or only augmentation.

Withheld: which of many vectors (keys) shows the same place as the query: at another time, augmented (another crop and
other colours), or both. Predicted: that key, by cosine similarity, in three spaces, each with its own projection head
on the one encoder: the first is invariant to time and augmentation, the second to time only, the third to augmentation
only.

Source: Mañas, Lacoste, Giró-i-Nieto, Vazquez, Rodríguez, "Seasonal Contrast: Unsupervised Pre-Training from Uncurated
Remote Sensing Data", 2021, https://arxiv.org/abs/2103.16607; the losses are those of the authors' code
Differs: the times of a place are all different, where the authors' code draws them with replacement; a place with two
images shows one of them twice, never that of the query. The other two keys of a place are negatives across all
processes. The teacher moves after the optimizer step; norms see small groups, as in MoCo. The queue and the momentum
suit short runs (16,384 and 0.999 in the paper), and images are not blurred by default. The optimizer is AdamW, not SGD.
Shortcut: in the second and third space, other keys of the same place are negatives, which the colours of the image tell
apart: that is what these spaces are for. The first could be solved by colours alone if all times looked alike.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data.image.data import Images
from unlabeled.data.image.places import Places, places_of
from unlabeled.encoders import ImageEncoder
from unlabeled.method import VIEWS_OFF, Batch, Method
from unlabeled.options import Count, Fraction, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import nearest, with_queue
from unlabeled.parts.precision import full
from unlabeled.parts.queue import Queue
from unlabeled.parts.shuffle import in_groups, shuffled
from unlabeled.parts.teacher import Teacher

__all__ = ["SeCo"]

SPACES, QUEUE = 3, 1024


class Heads(nn.Module):
    """A projection head for each space: (batch, dim) to (batch, spaces, projection_dim)."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.spaces = nn.ModuleList(mlp(dim, dim, projection_dim, norm=False) for _ in range(SPACES))

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.spaces], 1)


def loss(queries: Tensor, keys: Tensor, stored: list[Tensor], temperature: float) -> Tensor:
    """Sum of the contrastive losses of the three spaces.

    Args:
        queries: Of this process, float, shape (batch, spaces, dim); only their directions count.
        keys: Unit vectors of all processes: another time and augmented, another time, augmented; float, shape (images,
            3, spaces, dim).
        stored: Unit vectors of other places, one tensor for each space, float, shape (stored, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Scalar, in nats.
    """
    losses = []
    for space, negatives in enumerate(stored):
        here = keys[:, :, space]
        # In the first space the other keys are not negatives, as it is invariant to all changes of a place.
        others = [here[:, key] for key in range(SPACES) if key != space] if space else []
        own = gather.own(here[:, space])
        losses.append(with_queue(queries[:, space], own, torch.cat([negatives, *others]), temperature))
    return torch.stack(losses).sum()


class SeCo(Method[ImageEncoder]):
    """Recognise places in three spaces, invariant to time and augmentation, only time or only augmentation.

    Images need groups, each with the images of one place at several times, such as `group=folder` for files named
    place/time.png. The metric `accuracy` is the fraction of places that are identified in the first space among those
    of the batch.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; lower penalises hard negatives more.
        projection_dim: Width of the compared vectors.
        queue: Number of stored keys of each space that each query is compared with. [default: 1024, at most the number
            of places]
        momentum: Momentum of the teacher; 0.999 in the paper, 0.99 for shorter runs.
        splits: Groups that batch norm sees separately in each process; each has at least 8 images.
        **views: How the views are drawn; all are cropped, the other options are for augmented ones only.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5)
    smallest: ClassVar = {"queue": 4}
    example = "seasons"

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.07,
        projection_dim: Count = 128,
        queue: Count | None = None,
        momentum: Fraction = 0.99,
        splits: Count = 4,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.temperature, self.splits = temperature, splits
        options = self.view_options(views)
        self.views = Views(encoder.image_size, **options)
        self.crops = Views(encoder.image_size, **VIEWS_OFF | {"crop": options["crop"]})
        self.heads = Heads(encoder.dim, projection_dim)
        self.teacher = Teacher(encoder, self.heads, momentum=momentum)
        self.queue = Queue(queue or QUEUE, SPACES * projection_dim, may_shrink=queue is None)

    @property
    def stored(self) -> list[Tensor]:
        """Keys of earlier batches in each space, unit vectors, float, shape (stored, projection_dim) each."""
        # The random rows at the start have unit length as a whole, not in each space.
        return [*F.normalize(self.queue.rows.unflatten(1, (SPACES, -1)), dim=2).unbind(1)]

    def chance(self, samples: int) -> float:
        stored = len(self.queue.rows)
        return math.log(stored + 1) + 2 * math.log(stored + 1 + 2 * samples)

    def training_view(self, data: Images) -> Places:
        return places_of(data, SPACES, "seco")

    def prepare(self, data: Places) -> None:
        self.queue.fit(len(data), "places")

    def forward(self, batch: Batch) -> Tensor:
        query, *keys = self.four_views(batch)
        queries = self.heads(in_groups(self.encoder, query, self.splits))
        outputs = [full(shuffled(self.teacher, images, self.splits)) for images in keys]
        vectors = F.normalize(torch.stack(outputs, 1), dim=3)
        own = gather.own_rows(len(queries), queries.device)
        right = nearest(queries[:, 0].detach(), gather.own(vectors[:, 0, 0])) == own
        self.metrics = {"accuracy": right.float().mean()}
        value = loss(queries, vectors, self.stored, self.temperature)
        if self.training:
            self.queue.push(torch.cat([vectors[:, space, space] for space in range(SPACES)], 1))
        return value

    def four_views(self, batch: Batch) -> list[Tensor]:
        """Images of the query and its three keys: at another time and augmented, at another time, augmented."""
        first, second, third = (picture(batch, number) for number in range(SPACES))
        return [self.crops(first), self.views(second), self.crops(third), self.views(first)]

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        return super().features(batch if "image" in batch else picture(batch, 0), layer)

    def embed_features(self, features: Tensor) -> Tensor:
        return self.heads(features).flatten(1)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        names = ("query", "another time, augmented", "another time", "augmented")
        return dict(zip(names, self.four_views(batch)))


def picture(batch: Batch, number: int) -> Batch:
    """One image of each place, as a batch of images."""
    parts = {"image": batch["video"][:, number]}
    return parts | ({"size": batch["size"][:, number]} if "size" in batch else {})
