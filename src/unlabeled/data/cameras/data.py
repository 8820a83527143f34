"""Scenes that several cameras film at the same time; a sample is a scene."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, channels_first
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image.data import Images
from unlabeled.data.samples import Batch, Samples
from unlabeled.data.sequences import Sequences

__all__ = ["Scenes", "Simulator", "from_views", "pixels_of"]


Simulator = Callable[[int, int, Tensor], Tensor]
"""From the number of a scene, that of a camera and joint angles, radians, float, shape (poses, joints), to what the
camera sees, uint8, shape (poses, channels, height, width)."""


class Scenes(Sequences):
    """Scenes in one block of memory; factors may also be known of each moment, shape (scenes, frames).

    Args:
        pixels: All frames: scene by scene, camera by camera, frame by frame, uint8, shape (rows, channels, height,
            width).
        lengths: Frames that each camera has of each scene, int64, shape (scenes,).
        cameras: Cameras of every scene.
        **about: Name, paths, factors and so on, as in `Data`.
    """

    kind = "cameras"
    unit = "scenes"
    per_sample = (*Sequences.per_sample, "rows")
    sampling: tuple[int, int] | None = None
    """How many random moments a batch shows, and their radius, as in `moments`; None for whole scenes."""
    simulator: Simulator | None = None
    """Draws what the scenes show in other poses, of data in which that can be moved."""

    def __init__(
        self, pixels: Tensor, lengths: Tensor, *, cameras: int = 1, **about: Unpack[Samples]
    ) -> None:
        super().__init__(pixels, lengths, cameras=cameras, **about)
        self.rows = torch.arange(len(self))
        """Number of each scene for the simulator."""

    @property
    def shape(self) -> dict[str, int]:
        if self.sampling is None:
            return super().shape | {"cameras": self.cameras}
        return super().shape | {"cameras": 2, "frames": self.sampling[0]}

    def batch(self, index: Tensor) -> Batch:
        """Give out whole scenes, or random moments of them twice (see `moments`).

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `views` uint8 (batch, cameras, frames, channels, height, width), where shorter scenes than the longest
            of the batch repeat their last frame; `time` int64 (batch, cameras, frames), the number of each frame;
            `index` int64 (batch,). Of moments, `views` has two cameras, and `time` rises along the first of them.
        """
        if self.sampling is not None:
            return self.views(index, *self._draw(self.lengths[index.cpu()][:, None], *self.sampling))
        camera = torch.arange(self.cameras).expand(len(index), -1)
        return self.views(index, camera, self._times(index)[:, None].expand(-1, self.cameras, -1))

    def views(self, index: Tensor, camera: Tensor, time: Tensor) -> Batch:
        """Give out some frames of some cameras.

        Args:
            index: Rows, int64, shape (batch,).
            camera: Numbers of cameras, int64, shape (batch, views).
            time: Numbers of frames, int64, shape (batch, views, frames).

        Returns:
            `views`, `time` and `index` as from `batch`.
        """
        scene = index.cpu()[:, None]
        rows = (self.starts[scene] + camera * self.lengths[scene])[..., None] + time
        return self.on_device({"views": self.pixels[rows], "time": time, "index": index})

    def moments(self, count: int, radius: int = 0) -> Self:
        """The same scenes, of which a batch shows random moments twice.

        Args:
            count: Moments of a scene, at least 2.
            radius: 0 shows the same moments by two random cameras; else one random camera shows them and, the
                second time, other moments at most so many frames away.

        Raises:
            ValueError: A scene has too few frames, or but one camera where two are needed.
        """
        check.at_least(2, count=count)
        check.at_least(0, radius=radius)
        if count > self.shortest:
            raise UserError(
                f"moments must be at most {self.shortest}, the frames of the shortest scene, got {count}"
            )
        if not radius and self.cameras < 2:
            raise UserError(
                f"scenes must have at least 2 cameras, got {self.cameras}; views single takes one"
            )
        view = copy.copy(self)
        view.sampling = count, radius
        return view

    def _draw(self, lengths: Tensor, count: int, radius: int) -> tuple[Tensor, Tensor]:
        """Random cameras, int64, shape (batch, 2), and moments, int64, shape (batch, 2, count), of scenes."""
        order = torch.rand(len(lengths), int(lengths.max()))
        order = order.masked_fill(torch.arange(order.shape[1]) >= lengths, 2.0)
        first = order.argsort(1)[:, :count].sort(1).values
        camera = torch.rand(len(lengths), self.cameras).argsort(1)
        if not radius:
            return camera[:, :2], torch.stack([first, first], 1)
        low, high = (first - radius).clamp(min=0), (first + radius).minimum(lengths - 1)
        # One of the frames around, without the frame itself: skip over it.
        second = low + (torch.rand(first.shape) * (high - low)).long()
        second += (second >= first).long()
        return camera[:, :1].expand(-1, 2), torch.stack([first, second], 1)

    def frames(self) -> Images:
        """All frames as images, in the order of `places`: no labels, the factors of their scene and moment."""
        scene, camera, time = self.places().unbind(1)
        rows = self.starts[scene] + camera * self.lengths[scene] + time
        factors = {
            name: values[scene] if values.ndim == 1 else values[scene, time]
            for name, values in self.factors.items()
        }
        paths = [f"{self.paths[s]}/camera{c}/{t:06d}" for s, c, t in self.places().tolist()]
        return self._images(scene, rows, paths, factors)

    def places(self) -> Tensor:
        """Scene (its row), camera and number of every frame, int64, shape (images, 3), in the order of `frames`."""
        return self._places()

    def _contents(self) -> Iterable[int]:
        for start, length in zip(self.starts.tolist(), self.lengths.tolist()):
            yield digest(in_one_channel(self.pixels[start : start + self.cameras * length]), str(length))


def from_views(
    views: np.ndarray | Tensor,
    *,
    name: str = "array",
    paths: Sequence[str] | None = None,
    factors: Mapping[str, Tensor] | None = None,
) -> Scenes:
    """Scenes of one array.

    Args:
        views: uint8, shape (scenes, cameras, frames, channels, height, width), or with the channels last.
        name: What the data is called in reports.
        paths: Where each scene came from.
        factors: As in `Scenes`.

    Raises:
        ValueError: The array has another type or other axes.
    """
    pixels = pixels_of(views, name, 6)
    scenes, cameras, frames = pixels.shape[:3]
    for key, values in (factors or {}).items():
        if values.shape not in ((scenes,), (scenes, frames)):
            raise UserError(
                f"{key} of {name} must have shape ({scenes},) or ({scenes}, {frames}), got {tuple(values.shape)}"
            )
    lengths = torch.full((scenes,), frames)
    paths = paths or [f"{name}[{row}]" for row in range(scenes)]
    return Scenes(pixels.flatten(0, 2), lengths, cameras=cameras, name=name, paths=paths, factors=factors)


def pixels_of(views: np.ndarray | Tensor, name: str, axes: int) -> Tensor:
    """Views with the channels before the height, refused where they are of another type or have other axes."""
    pixels = as_tensor(views, name)
    if pixels.dtype != torch.uint8 or pixels.ndim != axes or 0 in pixels.shape:
        expected = f"uint8 of {axes} axes, (scenes,) cameras, frames, channels, height, width"
        raise UserError(f"views of {name} must be {expected}, got {pixels.dtype} {tuple(pixels.shape)}")
    return channels_first(pixels).contiguous()
