"""Trajectories of an agent that knows where it is; a sample is one: its frames and their poses."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, channels_first
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image.data import Images
from unlabeled.data.notes import note
from unlabeled.data.samples import Batch, Samples
from unlabeled.data.sequences import Sequences

__all__ = ["KEYS", "Trajectories", "fitting", "from_trajectories"]

KEYS = ("video", "pose", "depth", "action", "room")
ROOMS = 10_000
"""Different rooms; a higher number is a mistake."""
MOST_TURN = 16 * np.pi
"""Radians above which headings are rather degrees; fewer may be those of an agent that went in circles."""


class Trajectories(Sequences):
    """Trajectories in one block of memory, frame after frame.

    Args:
        pixels: All frames, uint8, shape (rows, channels, height, width).
        pose: x, y in metres, heading in radians counter-clockwise from +x, float, shape (rows, 3).
        lengths: Frames of each trajectory, int64, shape (trajectories,).
        depth: Distances that were seen, in metres, float, shape (rows, height, width).
        action: What the agent did after each frame, float, shape (rows, actions).
        room: Number of the room of each frame, for evaluation only, int64, shape (rows,).
        **about: Name, paths and so on, as in `Data`.
    """

    kind = "trajectory"
    unit = "trajectories"
    span: tuple[int, int] | None = None
    """Frames and stride of the random stretch that a batch shows, as in `spans`; None for whole trajectories."""

    def __init__(
        self,
        pixels: Tensor,
        pose: Tensor,
        lengths: Tensor,
        *,
        depth: Tensor | None = None,
        action: Tensor | None = None,
        room: Tensor | None = None,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(pixels, lengths, **about)
        assert len(pose) == len(pixels)
        signals = {"pose": pose.float(), "depth": depth, "action": action}
        self.signals = {key: values for key, values in signals.items() if values is not None}
        """What a batch gives out beside the frames, by key, float, shape (rows, ...)."""
        self.room = room

    @property
    def shape(self) -> dict[str, int]:
        return super().shape | ({} if self.span is None else {"frames": self.span[0]})

    def batch(self, index: Tensor) -> Batch:
        """Give out whole trajectories, or stretches that begin anywhere in them (see `spans`).

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `video` uint8 (batch, frames, channels, height, width), `pose` float (batch, frames, 3) and, where known,
            `depth` float (batch, frames, height, width) and `action` float (batch, frames, actions); `time` int64
            (batch, frames), the number of each frame; `index` int64 (batch,). Shorter trajectories than the longest of
            the batch repeat their last frame.
        """
        if self.span is None:
            return self.at(index, self._times(index))
        frames, stride = self.span
        steps = stride * torch.arange(frames)
        room = self.lengths[index.cpu()] - steps[-1]
        start = (torch.rand(len(index)) * room).long()
        return self.at(index, start[:, None] + steps)

    def at(self, index: Tensor, time: Tensor) -> Batch:
        """Give out some frames: as `batch`, with `time` int64 (batch, frames) the numbers of the frames."""
        rows = self.starts[index.cpu()][:, None] + time
        signals = {key: values[rows].float() for key, values in self.signals.items()}
        return self.on_device({"video": self.pixels[rows], **signals, "time": time, "index": index})

    def spans(self, frames: int, stride: int = 1) -> Self:
        """The same trajectories, of which a batch shows a stretch that begins anywhere.

        Args:
            frames: Frames of a stretch, at least 1.
            stride: Steps from one frame to the next, at least 1.

        Raises:
            ValueError: A trajectory is shorter than that.
        """
        check.at_least(1, frames=frames, stride=stride)
        if stride * (frames - 1) + 1 > self.shortest:
            raise UserError(
                f"a stretch must have at most {self.shortest} steps, the shortest trajectory of {self.name}, "
                f"got {frames} frames of stride {stride}"
            )
        view = copy.copy(self)
        view.span = frames, stride
        return view

    def frames(self) -> Images:
        """All frames as images: labels are the rooms, factors `x`, `y`, `heading_sin` and `heading_cos`."""
        trajectory, time = self.places().unbind(1)
        rows = self.starts[trajectory] + time
        x, y, heading = self.signals["pose"][rows].unbind(1)
        paths = [f"{self.paths[row]}/{number:06d}" for row, number in self.places().tolist()]
        factors = {"x": x, "y": y, "heading_sin": heading.sin(), "heading_cos": heading.cos()}
        if self.room is None:
            return self._images(trajectory, rows, paths, factors)
        labels, classes = self.room[rows].long(), [f"room {room}" for room in range(int(self.room.max()) + 1)]
        return self._images(trajectory, rows, paths, factors, labels, classes)

    def places(self) -> Tensor:
        """Trajectory (its row) and number of every frame, int64, shape (images, 2), in the order of `frames`."""
        return self._places()[:, [0, 2]]

    def _contents(self) -> Iterable[int]:
        for start, end in zip(self.starts.tolist(), (self.starts + self.lengths).tolist()):
            yield digest(in_one_channel(self.pixels[start:end]), self.signals["pose"][start:end])


def from_trajectories(
    content: Mapping[str, np.ndarray | Tensor], *, name: str = "array", paths: Sequence[str] | None = None
) -> Trajectories:
    """Trajectories of arrays.

    Args:
        content: `video` uint8 (trajectories, frames, height, width, channels), or with the channels before the height,
            and `pose` (trajectories, frames, 3); perhaps `depth`, `action` and `room`.
        name: What the data is called in reports.
        paths: Where each trajectory came from.

    Raises:
        ValueError: One is missing, or its type or axes do not fit.
    """
    arrays = fitting(content, name, 2)
    trajectories, frames = arrays["video"].shape[:2]
    flat: dict[str, Any] = {key: values.flatten(0, 1) for key, values in arrays.items()}
    paths = paths or [f"{name}[{row}]" for row in range(trajectories)]
    lengths = torch.full((trajectories,), frames)
    return Trajectories(flat.pop("video"), flat.pop("pose"), lengths, name=name, paths=paths, **flat)


def fitting(content: Mapping[str, np.ndarray | Tensor], name: str, lead: int) -> dict[str, Tensor]:
    """Arrays of trajectories as tensors with the channels first, refused where they do not belong together.

    Args:
        content: Arrays by key.
        name: What messages call them.
        lead: Axes before those of a frame: 1 for one trajectory, 2 for several.
    """
    arrays = {key: as_tensor(values, f"{key} of {name}") for key, values in content.items() if key in KEYS}
    if missing := [key for key in ("video", "pose") if key not in arrays]:
        raise UserError(f"{name} must hold video and pose, {missing[0]} is missing")
    video = arrays["video"]
    if video.dtype != torch.uint8 or video.ndim != lead + 3 or 0 in video.shape:
        raise UserError(
            f"video of {name} must be uint8 of {lead + 3} axes, got {video.dtype} {tuple(video.shape)}"
        )
    arrays["video"] = video = channels_first(video).contiguous()
    axes = {"pose": (3,), "depth": tuple(video.shape[-2:]), "room": ()}
    for key, values in arrays.items():
        shape = (*video.shape[:lead], *axes.get(key, values.shape[lead:]))
        if key != "video" and values.shape != shape:
            raise UserError(f"{key} of {name} must have shape {shape}, got {tuple(values.shape)}")
        if key in ("pose", "depth", "action") and not values.isfinite().all():
            raise UserError(f"{key} of {name} must be finite, got NaN or infinity")
    if (turn := float(arrays["pose"][..., 2].abs().max())) > MOST_TURN:
        note(f"{name}: headings reach {turn:g}; they must be in radians")
    if "room" in arrays:
        room = arrays["room"].double()
        if not ((room == room.round()) & (room >= -1) & (room < ROOMS)).all():
            got = f"{room.amin():g}..{room.amax():g}"
            raise UserError(
                f"room of {name} must be whole numbers from -1 (unknown) to {ROOMS - 1}, got {got}"
            )
    return arrays
