"""Readouts: an encoder that gives the features of another one's output or named map, pooled and scaled.

What scales them is fitted to samples without their labels.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import dictionary
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import pooling_grid
from unlabeled.parts import augment, directions
from unlabeled.parts.augment import Views
from unlabeled.parts.maps import blank_maps

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
    "refit_",
    "scaled",
    "view_covariances",
]

OUTPUT = "output"
"""Name of the encoder's output beside those of its maps."""
SCALINGS = ("none", "standardize", "whiten", "views")
SAMPLES = 10_000
"""Most samples that a scaling is fitted to."""
REDUCED = 1024
"""Principal components to which larger features are reduced first: solving takes the cube of their number in time."""
SHRINKAGE = 1.0
VIEWS, REGULARISATION, DIMENSIONS = 4, 0.1, 256
"""Random views of each image, what is added to how far they move, and directions that are left."""
BATCH = 256

Read = Callable[[dict[str, Tensor]], Tensor]


class Spec(NamedTuple):
    """Which features of an encoder are read.

    Attributes:
        layer: Name of a map, or `output`.
        grid: Rows and columns that the map is averaged to; None as `Encoder.features` pools it.
        scaling: none; standardize (each number has mean 0 and deviation 1), whiten (principal components of about
            equal variance) or views (of images: directions that random views hardly move).
        dimensions: Most numbers that whiten and views give; None for 1,024 of whiten, and 256 of views.
    """

    layer: str = OUTPUT
    grid: int | None = None
    scaling: str = "none"
    dimensions: int | None = None

    @property
    def one_unit(self) -> bool:
        """Whether all numbers share a unit, in which their sizes say how much each counts."""
        return self.scaling in ("whiten", "views")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From words that colons join, such as layer2:2x2:whiten:128, of which every one may be omitted.

        Raises:
            ValueError: A word is of no kind, or of one that came before.
        """
        values: dict[str, Any] = {}
        for number, word in enumerate(text.split(":")):
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
                    "features must be a map or output, a grid such as 2x2, one of standardize, whiten or views and a "
                    f"number of dimensions, joined by colons, as in layer2:2x2:whiten:128, got {text}"
                )
            values[name] = value
        spec = cls(**values)
        if spec.dimensions and spec.scaling not in ("whiten", "views"):
            raise UserError(f"dimensions must come with whiten or views, got {text}")
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
        if self.scaling == "views" and encoder.kind != "image":
            raise UserError(f"directions must be those of images for views, got an encoder of {encoder.kind}")
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
    """Features of another encoder's output or named map, pooled on a grid, minus a mean, times a matrix.

    Whatever else is asked of it, the other encoder answers.

    Args:
        encoder: The other encoder.
        spec: Which features.
        shape: How many numbers are read, and, where a matrix changes that, how many it gives.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, encoder: Encoder, spec: Spec, shape: Sequence[int]) -> None:
        config = encoder.config | {"features": str(spec), "numbers": list(shape)}
        super().__init__(config, shape[-1], encoder.map_dims)
        self.encoder, self.spec = encoder, spec
        self.kind, self.raw_detail = encoder.kind, encoder.raw_detail  # type: ignore[misc]
        self.maker, self.notes = encoder.maker, [*encoder.notes]
        if spec.scaling != "none":
            self.register_buffer("mean", torch.zeros(shape[0]))
            self.register_buffer("matrix", torch.zeros(*shape))

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
        return features if self.spec.scaling == "none" else scaled(features, self.mean, self.matrix)

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


def scaled(features: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Features minus a mean, times a matrix or a factor each."""
    return (features - mean) * matrix if matrix.ndim == 1 else (features - mean) @ matrix


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
        mean, matrix = fit_scaling(spec, read, data, seed, encoder.config.get("image_size"))
        readout = Readout(encoder, spec, matrix.shape)
        readout.mean, readout.matrix = mean, matrix
        if spec.scaling == "views":
            readout.notes.append(_mirrors(data, encoder.config["image_size"], seed)[1])
    return readout.train(training)


def refit_(readout: Readout, data: "Data", seed: int = 0) -> None:
    """Fit a readout in place, as after its encoder has changed; arguments as in `fit_readout`."""
    fresh = fit_readout(readout.encoder, readout.spec, data, seed)
    readout.dim, readout.config["numbers"] = fresh.dim, fresh.config["numbers"]
    for name, value in fresh.named_buffers(recurse=False):
        setattr(readout, name, value)


@torch.no_grad()
def fit_scaling(
    spec: Spec, read: Read, data: "Data", seed: int = 0, image_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mean and the matrix, or the factors, that scale features of any origin.

    Args:
        spec: Its scaling and dimensions.
        read: From a batch to float, shape (batch, numbers).
        data: At most 10,000 of its samples are looked at.
        seed: Seed of the choice of these, and of views.
        image_size: Side of views in pixels.

    Returns:
        Mean, float, shape (numbers,), and a matrix, (numbers, dimensions), or factors, (numbers,).
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    data = data.subset(order[:SAMPLES].sort().values) if len(data) > SAMPLES else data
    points = torch.cat([read(batch) for batch in data.batches(BATCH)])
    if points.shape[1] > directions.LARGEST and spec.scaling != "standardize":
        raise UserError(
            f"features must be at most {directions.LARGEST:,} numbers for {spec.scaling}, got {points.shape[1]:,}; "
            "take a smaller grid"
        )
    mean = points.double().mean(0).float()
    points -= mean
    if spec.scaling == "standardize":
        deviation = points.double().square().mean(0).sqrt()
        constant = deviation <= 1e-6 * mean.abs()
        return mean, torch.where(constant, 0, 1 / deviation).float()
    if spec.scaling == "whiten":
        return mean, directions.whitening(points, spec.dimensions or REDUCED, SHRINKAGE)
    assert image_size is not None
    flip, _ = _mirrors(data, image_size, seed)
    views = Views(image_size, crop=0.4, jitter=0.4, gray=0.1, flip=flip)
    reduction = directions.principal(points, REDUCED)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        between, within = view_covariances(
            lambda batch: scaled(read({"image": views(batch)}), mean, reduction), data
        )
    kept = directions.discriminants(between, within, spec.dimensions or DIMENSIONS, REGULARISATION)
    return mean, reduction @ kept.to(reduction)


def _mirrors(data: "Data", image_size: int, seed: int) -> tuple[float, str]:
    """How often views of images are mirrored: not where a linear rule tells images from mirror images, as of letters.

    Returns:
        A probability, and why, in words.
    """
    batch = data.sample(dictionary.SAMPLE, seed)
    images = augment.fit(batch["image"], image_size, batch.get("size"))
    if len(images) < dictionary.FEWEST:
        return 0.0, f"views are not mirrored, as {len(images)} images are too few to compare with mirror images"
    accuracy = dictionary.mirror_accuracy(images)
    flip, verb = (0.5, "are") if accuracy <= dictionary.MOST_ACCURATE else (0.0, "are not")
    return flip, f"views {verb} mirrored, as a linear rule tells mirror images in {accuracy:.0%} of cases"


def view_covariances(view: Read, data: "Data", views: int = VIEWS) -> tuple[Tensor, Tensor]:
    """Covariance of the images' mean features over views, and of a view around the mean of its image.

    Args:
        view: Features of a random view of each image of a batch, float, shape (batch, numbers).
        data: The images.
        views: Views of each, at least 2.

    Returns:
        Both float64, shape (numbers, numbers).
    """
    means, within = [], 0
    for batch in data.batches(BATCH):
        points = torch.stack([view(batch) for _ in range(views)])
        centre = points.mean(0)
        within = within + directions.scatter((points - centre).flatten(0, 1))
        means.append(centre)
    centres = torch.cat(means)
    between = directions.scatter(centres - centres.mean(0)) / len(centres)
    return between, torch.as_tensor(within) / (len(centres) * (views - 1))
