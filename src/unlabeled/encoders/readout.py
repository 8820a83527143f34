"""Readouts: an encoder that gives the features of another one's output or named map, pooled and scaled.

What scales them is fitted to samples without their labels.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import dictionary
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import pooling_grid
from unlabeled.parts import augment, directions
from unlabeled.parts.augment import Views
from unlabeled.parts.maps import blank_maps
from unlabeled.parts.view_contrast import ViewContrast, fit_head
from unlabeled.progress import watched

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = [
    "OUTPUT",
    "REDUCED",
    "SAMPLES",
    "Readout",
    "Spec",
    "bare",
    "fit_readout",
    "fit_scaling",
    "one_unit",
    "pooled",
    "view_covariances",
]

OUTPUT = "output"
"""Name of the encoder's output beside those of its maps."""
SCALINGS = ("none", "standardize", "whiten", "views", "contrast")
SAMPLES = 10_000
"""Most samples that a scaling is fitted to."""
REDUCED = 1024
"""Principal components to which larger features are reduced first: solving takes the cube of their number in time."""
MOST_REDUCED = 2000
"""The same for contrast, which has the time."""
SHRINKAGE = 1.0
VIEWS, REGULARISATION = 4, 0.1
"""Random views of each image, and what is added to how far they move."""
DIMENSIONS = {"whiten": REDUCED, "views": 256, "contrast": 512}
"""Dimensions that are left, or directions, by scaling."""
BATCH = 256

Read = Callable[[dict[str, Tensor]], Tensor]


class Spec(NamedTuple):
    """Which features of an encoder are read.

    Attributes:
        layer: Name of a map, or `output`.
        grid: Rows and columns that the map is averaged to; None as `Encoder.features` pools it.
        scaling: none; standardize (each number has mean 0 and deviation 1), whiten (principal components of about
            equal variance), views (of images: directions that random views hardly move) or contrast (of images: beside
            the standardised numbers and these directions what a small network makes of them that tells views of one
            image from those of others).
        dimensions: Most numbers that whiten and views give, and most directions of contrast; None for 1,024 of
            whiten, 256 of views and 512 of contrast.
    """

    layer: str = OUTPUT
    grid: int | None = None
    scaling: str = "none"
    dimensions: int | None = None

    @property
    def one_unit(self) -> bool:
        """Whether all numbers share a unit, in which their sizes say how much each counts."""
        return self.scaling in DIMENSIONS

    @classmethod
    def parse(cls, text: str) -> Self:
        """From words that colons join, such as layer2:2x2:whiten:128, of which every one may be omitted.

        Raises:
            ValueError: A word is of no kind, or of one that came before.
        """
        values: dict[str, Any] = {}
        for number, word in enumerate(str(text).split(":")):
            if grid := re.fullmatch(r"([1-9]\d?)x\1", word):
                name, value = "grid", int(grid[1])
            elif word in SCALINGS:
                name, value = "scaling", word
            elif re.fullmatch(r"[1-9]\d{0,3}", word):
                name, value = "dimensions", int(word)
            else:
                name, value = "layer", word
            if name in values or not word or (name == "layer" and number):
                raise UserError(
                    "features must be a map or output, a grid such as 2x2, one of standardize, whiten, views or "
                    f"contrast and a number of dimensions, joined by colons, as in layer2:2x2:whiten:128, got {text}"
                )
            values[name] = value
        spec = cls(**values)
        if spec.dimensions and spec.scaling not in DIMENSIONS:
            raise UserError(f"dimensions must come with whiten, views or contrast, got {text}")
        return spec

    def __str__(self) -> str:
        grid = f"{self.grid}x{self.grid}" if self.grid else ""
        scaling = "" if self.scaling == "none" else self.scaling
        return ":".join(filter(None, (self.layer, grid, scaling, str(self.dimensions or ""))))

    def of(self, encoder: Encoder) -> Self:
        """The same for an encoder: a map of images without a grid gets the one by which its `features` pool it.

        Raises:
            ValueError: There is no such map, it is smaller than the grid, or views are no views of images.
        """
        check.choice((OUTPUT, *encoder.map_dims), features=self.layer)
        if self.scaling in ("views", "contrast") and encoder.kind != "image":
            raise UserError(
                f"features must be those of images for {self.scaling}, got an encoder of {encoder.kind}"
            )
        if self.grid is None:
            if self.layer == OUTPUT or encoder.kind != "image":
                return self
            shape = blank_maps(encoder)[self.layer].shape  # type: ignore[arg-type]
            return self._replace(grid=min(pooling_grid(shape[1]), *shape[2:]))
        if self.layer == OUTPUT or encoder.kind != "image":
            maps = ", ".join(encoder.map_dims) if encoder.kind == "image" else "which encoders of images have"
            raise UserError(f"features must name a map for a grid ({maps}), got {self}")
        side = min(blank_maps(encoder)[self.layer].shape[2:])  # type: ignore[arg-type]
        if self.grid > side:
            raise UserError(f"features must have a grid of at most {side}x{side} of {self.layer}, got {self}")
        return self


class Readout(Encoder):
    """Features of another encoder's output or named map, pooled on a grid and scaled.

    Whatever else is asked of it, the other encoder answers.

    Args:
        encoder: The other encoder.
        spec: Which features.
        shape: How many numbers are read, and how many directions are kept of them where a matrix does so.
    """

    def __init__(self, encoder: Encoder, spec: Spec, shape: Sequence[int]) -> None:
        config = encoder.config | {"features": str(spec), "numbers": list(shape)}
        scale = None if spec.scaling == "none" else make_scale(spec.scaling, shape)
        super().__init__(config, shape[-1] if scale is None else scale.dim, encoder.map_dims)
        self.encoder, self.spec = encoder, spec
        self.kind, self.raw_detail = encoder.kind, encoder.raw_detail  # type: ignore[misc]
        self.maker, self.notes = encoder.maker, [*encoder.notes]
        self.scale = scale

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("encoder", "__setstate__"):  # not there yet, as while it is copied
                raise
            return getattr(self.encoder, name)

    def evaluation_view(self, data: "Data") -> "Data":
        return self.encoder.evaluation_view(data)

    def inputs(self, batch: dict[str, Tensor]) -> Any:
        return self.encoder.inputs(batch)

    def run_all(self, x: Any) -> None:
        self.encoder.run_all(x)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        return self.encoder.raw(batch)

    def forward(self, x: Any) -> Tensor:
        """The features, float, shape (batch, dim), of what `inputs` gives."""
        features = pooled(self.encoder, x, self.spec)
        return features if self.scale is None else self.scale(features)

    def features(self, x: Any, layer: str | None = None) -> Tensor:
        """The features, or those of a named layer of the other encoder as it gives them."""
        return self(x) if layer is None else self.encoder.features(x, layer)


def bare(encoder: Encoder) -> Encoder:
    """The encoder within a readout; any other one as it is."""
    return encoder.encoder if isinstance(encoder, Readout) else encoder


def one_unit(encoder: Encoder) -> bool:
    """Whether all numbers of an encoder share a unit, as whitened ones do, whose sizes then say what each counts."""
    return isinstance(encoder, Readout) and encoder.spec.one_unit


def pooled(encoder: Any, x: Any, spec: Spec) -> Tensor:
    """Features before they are scaled, float, shape (batch, numbers).

    Args:
        encoder: The encoder.
        x: What its `inputs` gives.
        spec: Which features.
    """
    if spec.layer == OUTPUT:
        return encoder(x)
    if spec.grid is None:
        return encoder.features(x, spec.layer)
    return F.adaptive_avg_pool2d(encoder.maps(x)[spec.layer], spec.grid).flatten(1)


class Affine(nn.Module):
    """Features minus a mean, times a matrix or a factor each.

    Args:
        shape: Numbers of a feature, and, of a matrix, how many it gives.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("matrix", torch.zeros(*shape))
        self.dim = shape[-1]

    def forward(self, features: Tensor) -> Tensor:
        centred = features - self.mean
        return centred * self.matrix if self.matrix.ndim == 1 else centred @ self.matrix


def make_scale(scaling: str, shape: Sequence[int]) -> "Affine | ViewContrast":
    """What scales features, not yet fitted: see `Spec` for the scaling, `Readout` for the shape."""
    return ViewContrast(*shape) if scaling == "contrast" else Affine(shape)


@torch.no_grad()
def fit_readout(encoder: Encoder, spec: Spec, data: "Data", seed: int = 0) -> Readout:
    """Read other features of an encoder; what scales them is fitted to samples, whose labels play no part.

    Args:
        encoder: An encoder, or a readout whose encoder is read anew; it is shared, not copied.
        spec: Which features.
        data: Training samples as the encoder reads them, on its device; at most 10,000 of them are looked at.
        seed: Seed of the choice of these, and of views.

    Returns:
        The readout, in evaluation mode if the encoder is.

    Raises:
        ValueError: The encoder has no such features, they are too many, or they do not vary.
    """
    encoder = bare(encoder)
    spec = spec.of(encoder)
    training = encoder.training
    encoder.eval()

    def read(batch: dict[str, Tensor]) -> Tensor:
        return pooled(encoder, encoder.inputs(batch), spec).float()

    if spec.scaling == "none":
        readout = Readout(encoder, spec, read(data.batch(torch.arange(1))).shape[1:])
    else:
        scale, note = fit_scaling(spec, read, data, seed, encoder.config.get("image_size"))
        with torch.random.fork_rng(devices=[]):  # weights that are replaced are drawn
            readout = Readout(encoder, spec, scale.matrix.shape)
        readout.scale = scale
        readout.notes += [note] if note else []
    return readout.train(training)


@torch.no_grad()
def fit_scaling(
    spec: Spec, read: Read, data: "Data", seed: int = 0, image_size: int | None = None
) -> tuple["Affine | ViewContrast", str]:
    """What scales features of any origin, and a line about the views that it saw, empty where it saw none.

    Args:
        spec: Its scaling and dimensions.
        read: From a batch to float, shape (batch, numbers).
        data: At most 10,000 of its samples are looked at.
        seed: Seed of the choice of these, and of views.
        image_size: Side of views in pixels.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    data = data.subset(order[:SAMPLES].sort().values) if len(data) > SAMPLES else data
    points = torch.cat([read(batch) for batch in _batches(data, "reading features to fit their scaling")])
    if points.shape[1] > directions.LARGEST and spec.scaling != "standardize":
        raise UserError(
            f"features must be at most {directions.LARGEST:,} numbers for {spec.scaling}, got {points.shape[1]:,}; "
            "take a smaller grid"
        )
    mean = points.double().mean(0).float()
    points -= mean
    if spec.scaling == "whiten":
        return _affine(mean, directions.whitening(points, spec.dimensions or REDUCED, SHRINKAGE)), ""
    deviation = points.double().square().mean(0).sqrt()
    factors = torch.where(deviation <= 1e-6 * mean.abs(), 0, 1 / deviation).float()
    if spec.scaling == "standardize":
        return _affine(mean, factors), ""
    assert image_size is not None
    views, note = _views(data, image_size, seed)
    reduction = directions.principal(points, REDUCED if spec.scaling == "views" else MOST_REDUCED)
    del points
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        seen = _read_views(lambda batch: (read({"image": views(batch)}) - mean) @ reduction, data)
        between, within = view_covariances(seen)
        most = spec.dimensions or DIMENSIONS[spec.scaling]
        axes = directions.discriminants(between, within, most, REGULARISATION).to(reduction)
        if not axes.shape[1]:
            raise UserError(f"features must vary for {spec.scaling}, got {len(data)} equal ones")
        if spec.scaling == "views":
            return _affine(mean, reduction @ axes), note
        contrast = ViewContrast(len(mean), axes.shape[1]).to(mean.device)
        contrast.mean, contrast.factors, contrast.matrix = mean, factors, reduction @ axes
        fit_head(contrast.head, torch.stack([rows @ axes for rows in seen]))
    return contrast.eval(), note


def _affine(mean: Tensor, matrix: Tensor) -> Affine:
    scale = Affine(matrix.shape)
    scale.mean, scale.matrix = mean, matrix
    return scale


def _views(data: "Data", image_size: int, seed: int) -> tuple[Views, str]:
    """Random views that leave what images show, and why these, in words.

    Where a linear rule tells images from their mirror images, as of letters, views are not mirrored, and gentle.
    """
    batch = data.sample(dictionary.SAMPLE, seed)
    images = augment.fit(batch["image"], image_size, batch.get("size"))
    accuracy = dictionary.mirror_accuracy(images)
    why = f"as a linear classifier recognises mirror images with {accuracy:.0%} accuracy"
    if len(images) < dictionary.FEWEST:
        why = f"as {len(images)} images are too few to compare with mirror images"
    elif accuracy <= dictionary.MOST_ACCURATE:
        return Views(image_size, crop=0.4, jitter=0.4, gray=0.1, flip=0.5), f"views are mirrored, {why}"
    return Views(image_size, crop=0.7, jitter=0, gray=0, flip=0), f"views are gentle and not mirrored, {why}"


def _read_views(view: Read, data: "Data") -> Tensor:
    """Features of random views, float, shape (views, images, numbers): at most 10,000 images of 2,000 numbers.

    Args:
        view: Features of a random view of each image of a batch, float, shape (batch, numbers).
        data: The images.
    """
    batches = _batches(data, "reading features of random views")
    return torch.cat([torch.stack([view(batch) for _ in range(VIEWS)]) for batch in batches], 1)


def _batches(data: "Data", what: str) -> Iterator[dict[str, Tensor]]:
    return watched(data.batches(BATCH), -(-len(data) // BATCH), what, "batches")


def view_covariances(views: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance of the images' mean features over views, and of a view around the mean of its image.

    Args:
        views: Features of at least 2 views of each image, float, shape (views, images, numbers).

    Returns:
        Both float64, shape (numbers, numbers).
    """
    count, images, numbers = views.shape
    within = torch.zeros(numbers, numbers, dtype=torch.float64, device=views.device)
    centres = []
    for part in views.split(BATCH, 1):
        centre = part.mean(0)
        within += directions.scatter((part - centre).flatten(0, 1))
        centres.append(centre)
    means = torch.cat(centres)
    between = directions.scatter(means - means.mean(0)) / images
    return between, within / (images * (count - 1))
