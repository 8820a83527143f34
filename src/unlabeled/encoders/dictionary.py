"""Networks of one or two layers of atoms: how similar every patch of an image is to each atom, pooled on a grid.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html; the second layer: see `second_layer`
"""

import re

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.filters import FLOOR, THRESHOLD, Filters, both_signs
from unlabeled.encoders.second_layer import SecondLayer

__all__ = ["NAME", "PatchCode", "dictionary", "is_dictionary", "mirror_accuracy", "suited"]

NAME = "dictionary-400"
"""Name of the default dictionary, dictionary-ATOMS[-WIDTH][-mirror or -oriented]; dictionary2-... has two layers."""
PATTERN = re.compile(r"dictionary(2?)-([1-9][0-9]{0,5})(?:-([1-9][0-9]?))?(?:-(mirror|oriented))?")
NUMBERS, LARGEST_GRID = 8192, 3
"""Largest dimension of the output, as far as a grid of 2x2 allows it, and largest number of cells on a side of it."""
QUADRANTS = 2
"""Cells on a side of the second layer's part of the output."""
CELLS = 9
"""Largest number of cells on a side of the map."""
ENTRIES = 2**21
"""Size of the code of a few images, which stays in the cache while it is pooled."""
SIDE, PENALTY = 16, 0.1
"""Side in pixels of the images that are told from their mirror images, and the ridge as a fraction of the variance."""
SAMPLE = 2000
"""Largest number of images that are told from their mirror images."""
FEWEST, MOST_ACCURATE = 50, 0.6
"""Number of images below which, and accuracy above which, images and their mirror images are not treated alike."""


class PatchCode(Filters):
    """How similar every patch is to each atom and to its negative, beyond a threshold.

    The code of a patch has the positive and the negative parts of its `products`, averaged over cells. The output is
    the square root of its mean over a coarser grid, which reduces the weight of frequent atoms relative to rare ones.

    Args:
        channels: Channels of the images.
        atoms: Number of filters, mirror images included.
        width: Side of a patch in pixels, at most that of the images.
        mirror: Whether half of the filters are mirror images of the others, and the output is averaged over an image
            and its mirror image, which then have the same features.
        eps: Variance that is added to that of each patch; channels of the input have about 1.
        second: A layer on the code, whose code, averaged over quadrants, joins the output.
    """

    def __init__(
        self,
        channels: int,
        atoms: int,
        width: int,
        *,
        mirror: bool = False,
        eps: float = 0.01,
        second: SecondLayer | None = None,
    ) -> None:
        own = atoms // 2 if mirror else atoms
        super().__init__(channels, own, (width, width), eps=eps)
        self.width, self.mirror, self.second = width, mirror, second
        self.dim, self.map_dims = 0, {"atoms": 2 * atoms}
        if second is not None:
            self.dim, self.map_dims["second"] = second.dim * QUADRANTS**2, second.dim
        self.grid = min(LARGEST_GRID, max(2, int((max(0, NUMBERS - self.dim) / (2 * own)) ** 0.5)))
        """Cells on a side of the first layer's part of the output."""
        self.dim += 2 * own * self.grid**2

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The codes by name, float, shape (batch, channels, rows, columns), of at most 9 rows and columns."""
        code = self.code(x)
        return {"atoms": code} if self.second is None else {"atoms": code, "second": self.second(code)}

    def code(self, x: Tensor) -> Tensor:
        """The code of the first layer, of what `maps` takes."""
        # An exported network must take any number of images.
        if x.is_cuda or _is_traced():
            return self._code(x)
        size = max(1, ENTRIES // (self.map_dims["atoms"] * x.shape[2] * x.shape[3]))
        return torch.cat([self._code(chunk) for chunk in x.split(size)])

    def forward(self, x: Tensor) -> Tensor:
        """The codes on coarse grids, float, shape (batch, dim), of float, shape (batch, channels, height, width)."""
        maps = self.maps(x)
        pooled = F.adaptive_avg_pool2d(maps["atoms"], self.grid)
        if self.mirror:
            # A filter's code of the mirror image is its mirror image's code of the image, mirrored.
            one, other = rearrange(pooled, "b (sign pair k) h w -> pair b (sign k) h w", sign=2, pair=2)
            pooled = (one + other.flip(3)) / 2
        pooled = pooled.flatten(1)
        if self.second is not None:
            pooled = torch.cat([pooled, self._quadrants(maps).flatten(1)], 1)
        return (pooled + FLOOR).sqrt()

    def _quadrants(self, maps: dict[str, Tensor]) -> Tensor:
        """Means of the second code over quadrants, and over an image and its mirror image if they are the same."""
        assert self.second is not None
        pooled = F.adaptive_avg_pool2d(maps["second"], QUADRANTS)
        if not self.mirror:
            return pooled
        atoms = rearrange(maps["atoms"], "b (sign pair k) h w -> b sign pair k h w", sign=2, pair=2)
        mirrored = self.second(atoms.flip(2, 5).flatten(1, 3))
        return (pooled + F.adaptive_avg_pool2d(mirrored, QUADRANTS)) / 2

    def _code(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weight, offset = self.convolution.weight, self.offset
        if self.mirror:
            weight, offset = torch.cat([weight, weight.flip(3)]), offset.repeat(2)
        products, scale = self.correlate(x, weight)
        cells = min(CELLS, products.shape[2]), min(CELLS, products.shape[3])
        if _can_fuse(products):
            from unlabeled.kernels.patch_code import pool_code

            return pool_code(products, scale, offset.detach(), cells, THRESHOLD)
        signed = F.softshrink(products * scale + offset[:, None, None], THRESHOLD)
        difference, total = (F.adaptive_avg_pool2d(part, cells) for part in (signed, signed.abs()))
        return both_signs(difference, total)


def _is_traced() -> bool:
    """Whether the network is being traced for export."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _can_fuse(products: Tensor) -> bool:
    """Whether the compiled loop can be used, which has no gradient, cannot be traced and runs only on CPUs."""
    plain = type(products) is Tensor and products.is_cpu and products.dtype == torch.float32
    return plain and not products.requires_grad and not _is_traced()


def is_dictionary(name: str) -> bool:
    """Whether it is the name of a dictionary."""
    return PATTERN.fullmatch(name) is not None


def dictionary(name: str, channels: int, image_size: int) -> PatchCode:
    """The network of a name such as dictionary-400 or dictionary-400-6-mirror, whose patches are 6 pixels wide.

    Raises:
        ValueError: Patches are wider than images, or an odd number of atoms is to be mirrored.
    """
    match = PATTERN.fullmatch(name)
    assert match
    atoms, width = int(match[2]), int(match[3] or min(6, max(1, image_size // 2)))
    if width > image_size:
        raise UserError(f"patches must be at most as wide as the images, {image_size} pixels, got {name}")
    if match[4] == "mirror" and atoms % 2:
        raise UserError(f"atoms must be even where half are mirror images, got {name}")
    mirror, maps = match[4] == "mirror", 2 * atoms
    second = None
    if match[1]:
        first = maps // 2 if mirror else maps
        second = SecondLayer(maps, min(CELLS, image_size - width + 1), NUMBERS // QUADRANTS**2 - first)
    return PatchCode(channels, atoms, width, mirror=mirror, second=second)


def suited(name: str, images: Tensor) -> tuple[str, str]:
    """The name of the dictionary that suits images: with -mirror if they resemble their mirror images.

    Args:
        name: Name of a dictionary.
        images: A sample, float, shape (batch, channels, height, width).

    Returns:
        The name, unchanged if it says mirror or oriented, and a line that says what was chosen, otherwise empty.
    """
    if name.endswith(("-mirror", "-oriented")):
        return name, ""
    accuracy = mirror_accuracy(images)
    if len(images) < FEWEST:
        return (
            name,
            f"images and their mirror images get different features: {len(images)} images are too few to compare",
        )
    reason = f"a linear classifier separates them with {accuracy:.0%} accuracy"
    if accuracy > MOST_ACCURATE or int(PATTERN.fullmatch(name)[2]) % 2:  # type: ignore[index]
        return name, f"images and their mirror images get different features: {reason}"
    return (
        f"{name}-mirror",
        f"an image and its mirror image get the same features: {reason}, where chance is 50%",
    )


def mirror_accuracy(images: Tensor) -> float:
    """Accuracy at which a linear rule learned on half of the images tells the others from their mirror images.

    Args:
        images: Float, shape (batch, channels, height, width).

    Returns:
        In 0..1, about 0.5 if mirror images are as likely as images.
    """
    small = F.adaptive_avg_pool2d(images.mean(1), SIDE).double()
    differences = (small - small.flip(2))[:, :, : SIDE // 2].flatten(1)
    halves = differences[::2], differences[1::2]
    right = torch.zeros((), dtype=torch.double)
    for train, test in (halves, halves[::-1]):
        covariance = train.T @ train / max(len(train), 1)
        ridge = PENALTY * covariance.diagonal().mean().clamp_min(1e-12)
        rule = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance)), train.mean(0))
        score = test @ rule
        right += (score > 0).double().sum() + (score == 0).double().sum() / 2
    return float(right / max(len(images), 1))
