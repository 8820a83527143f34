"""Videos in one flat block of memory, given out whole or as clips. Frames count as they are in the file, whatever the
time between them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, Unpack

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image.data import fits_on
from unlabeled.data.samples import Batch, Data, Samples, Skipped

__all__ = ["Videos", "from_videos"]


class Videos(Data):
    """Videos ready for training: a batch is an index operation.

    Args:
        pixels: All frames of all videos one after the other, each as (channels, height, width), uint8, shape
            (bytes,).
        counts: Frames of each video, int64, shape (samples,).
        size: Channels, height and width of every frame.
        fps: Frames per second of each video on average, float, shape (samples,); 0 where unknown.
        masks: What is visible at each pixel, uint8, shape (samples, frames, height, width), where that is known.
        **about: Name, paths, labels and so on, as in `Data`.
    """

    kind = "video"
    unit = "videos"
    group_unit = "recordings"
    per_sample = ("counts", "first", "fps", "slack", "places", "masks")

    def __init__(
        self,
        pixels: Tensor,
        counts: Tensor,
        size: tuple[int, int, int],
        *,
        fps: Tensor | None = None,
        masks: Tensor | None = None,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(**about)
        assert len(counts) == len(self) and int(counts.sum()) * size[0] * size[1] * size[2] == len(pixels)
        self.table = pixels.view(-1, *size)
        """All frames, uint8, shape (frames of all videos, channels, height, width)."""
        self.counts, self.first = counts, counts.cumsum(0) - counts
        self.fps = torch.zeros(len(counts)) if fps is None else fps
        self.masks = masks
        self.places: Tensor | None = None
        """Rows of `table` that a sample shows, int64, shape (samples, frames); None for all of its video."""
        self.slack = torch.zeros_like(counts)
        """By how many frames a sample may start later, drawn anew for each batch, int64, shape (samples,)."""
        self.device = pixels.device

    @property
    def shape(self) -> dict[str, int]:
        channels, height, width = self.table.shape[1:]
        frames = int(self.counts.median()) if len(self) else 0
        return {"channels": channels, "image_size": min(height, width), "frames": frames}

    def batch(self, index: Tensor) -> Batch:
        """Give out samples.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `video` uint8 (batch, frames, channels, height, width) and `index` int64 (batch,) on the device of the
            data. Where whole videos differ in length, shorter ones stay at their last frame, and `frames` int64
            (batch,) gives their true numbers of frames. Where samples are not independent, such as clips of one
            video, `group` int64 (batch,) numbers what they have in common.
        """
        rows = index.cpu()
        counts = self.counts[rows]
        places = self._places(rows, torch.arange(int(counts.amax())).minimum(counts[:, None] - 1))
        if self.slack.any():
            delays = torch.rand(len(rows)) * (self.slack[rows] + 1)
            places = places + delays.long()[:, None]
        video = self.table[places.to(self.table.device)]
        batch: Batch = {"video": video.to(self.device), "index": index.to(self.device)}
        if self.places is None and bool((self.counts != self.counts[:1]).any()):
            batch["frames"] = counts.to(self.device)
        if self.groups is not None:
            batch["group"] = self.groups[rows].to(self.device)
        return batch

    def clips(self, frames: int, stride: int = 1, *, random: bool = True) -> Self:
        """Short clips of the videos as samples: a video gives as many as it holds side by side.

        Each clip starts anywhere in its own part of the video, so that every start can occur, and each as often
        as its neighbours. Videos that are too short are omitted and listed in `skipped`.

        Args:
            frames: Frames of a clip, at least 1.
            stride: Steps from one frame of a clip to the next, in frames of the video, at least 1.
            random: Whether a clip starts elsewhere each time, drawn from torch's default generator; otherwise it
                lies in the middle of its part and overlaps no other. Clips of clips always do the latter.

        Raises:
            ValueError: A number is too small, or no video is long enough.
        """
        check.whole(frames=frames, stride=stride)
        check.at_least(1, frames=frames, stride=stride)
        length = (frames - 1) * stride + 1
        if (longest := int(self.counts.amax())) < length:
            raise UserError(
                f"(frames - 1) * stride + 1 must be at most {longest}, the frames of the longest video in "
                f"{self.name}, got {length}"
            )
        parts = self.counts // length
        rows = torch.arange(len(self)).repeat_interleave(parts)
        number = torch.arange(len(rows)) - (parts.cumsum(0) - parts)[rows]
        starts = self.counts[rows] - length + 1
        if random and self.places is None:
            low, high = number * starts // parts[rows], (number + 1) * starts // parts[rows]
            slack = high - low - 1
        else:
            begin, end = (part * self.counts[rows] // parts[rows] for part in (number, number + 1))
            low, slack = begin + (end - begin - length) // 2, torch.zeros_like(starts)
        view = self._view(rows, low[:, None] + stride * torch.arange(frames), slack)
        view.unit = "clips"
        view.paths = [f"{path}[{start}:]" for path, start in zip(view.paths, low.tolist())]
        view.skipped = self.skipped + [
            Skipped(self.paths[row], f"{self.counts[row]} frames, fewer than the {length} of a clip")
            for row in (parts == 0).nonzero().flatten().tolist()
        ]
        return view

    def spread(self, frames: int, number: int = 0, of: int = 1) -> Self:
        """Each video as `frames` frames that are spread evenly over all of it, its first and last among them.

        Args:
            frames: Frames, at least 1.
            number: Which of several such views: every `of`-th frame of `of` times as many, from this one on.
            of: How many views there are.
        """
        check.at_least(1, frames=frames, of=of)
        fraction = torch.linspace(0, 1, of * frames) if of * frames > 1 else torch.full((1,), 0.5)
        time = fraction[number::of] * (self.counts[:, None] - 1)
        return self._view(torch.arange(len(self)), time.round().long())

    def middle(self, frames: int, stride: int = 1, number: int = 0, of: int = 1) -> Self:
        """Each video as the clip in its middle; shorter videos stay at their last frame.

        Args:
            frames: Frames, at least 1.
            stride: Steps from one frame to the next; 0 for a single frame that stays.
            number: Which of several clips instead, at even distances from the start of the video to its end.
            of: How many of these there are; 1 for that in the middle.
        """
        room, time = self._clip(frames, stride)
        start = room // 2 if of == 1 else number * room // (of - 1)
        return self._view(torch.arange(len(self)), time + start[:, None])

    def anywhere(self, frames: int, stride: int = 1) -> Self:
        """Each video as a clip that starts elsewhere each time, drawn from torch's default generator.

        Clips of what is no whole video are those of `middle`.

        Args:
            frames: As in `middle`.
            stride: As in `middle`.
        """
        if self.places is not None:
            return self.middle(frames, stride)
        room, time = self._clip(frames, stride)
        return self._view(torch.arange(len(self)), time, slack=room)

    def _clip(self, frames: int, stride: int) -> tuple[Tensor, Tensor]:
        """By how many frames a clip of each video may start later, and the frames of the first, (samples, frames)."""
        check.at_least(1, frames=frames)
        check.at_least(0, stride=stride)
        room = (self.counts - ((frames - 1) * stride + 1)).clamp(min=0)
        return room, (stride * torch.arange(frames)).minimum(self.counts[:, None] - 1)

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there if half its free memory is enough."""
        moved = super().to(device)
        if fits_on(self.table.numel(), moved.device):
            moved.table = self.table.to(device)
        return moved

    def _places(self, rows: Tensor, time: Tensor) -> Tensor:
        """Rows of `table` of some frames of samples, int64, shape (rows, frames); `time` has their numbers."""
        return self.first[rows, None] + time if self.places is None else self.places[rows].gather(1, time)

    def _view(self, rows: Tensor, time: Tensor, slack: Tensor | int = 0) -> Self:
        """Samples that show some frames of some of these samples, sharing their memory."""
        view = copy.copy(self)
        view.places, view.slack = self._places(rows, time), slack + self.slack[rows]
        view.counts = torch.full((len(rows),), time.shape[1])
        view.first, view.fps, view.masks = self.first[rows], self.fps[rows], None
        view.paths = [self.paths[row] for row in rows.tolist()]
        view.labels = None if self.labels is None else self.labels[rows]
        alone = self.groups is None and len(rows.unique()) == len(rows)
        view.groups = None if alone else self.groups_of(rows)
        fixed = not view.slack.any()
        factors = {name: values[rows] for name, values in self.factors.items() if fixed or values.ndim == 1}
        view.factors = {name: v if v.ndim == 1 else v.gather(1, time) for name, v in factors.items()}
        return view

    def _contents(self) -> Iterable[int]:
        # Of clips that start anywhere, with the first start they can have.
        for row, count in enumerate(self.counts.tolist()):
            if self.places is None:
                frames = self.table[int(self.first[row]) :][:count]
            else:
                frames = self.table[self.places[row].to(self.table.device)]
            yield digest(in_one_channel(frames.cpu()))


def from_videos(
    video: Tensor,
    labels: Tensor | None = None,
    *,
    name: str = "array",
    classes: list[str] | None = None,
    factors: Mapping[str, Tensor] | None = None,
    masks: Tensor | None = None,
    skipped: Sequence[Skipped] = (),
) -> Videos:
    """Data of videos in a tensor.

    Args:
        video: uint8, shape (samples, frames, channels, height, width).
        labels: int64, shape (samples,).
        name: What the data is called in reports.
        classes: Names of the classes by label.
        factors: What else is known, as in `Data`.
        masks: What is visible at each pixel, as in `Videos`.
        skipped: Files that could not be used.
    """
    samples, frames, *size = video.shape
    return Videos(
        video.reshape(-1),
        torch.full((samples,), frames),
        (size[0], size[1], size[2]),
        name=name,
        paths=[f"{name}[{row}]" for row in range(samples)],
        masks=masks,
        labels=labels,
        classes=classes,
        factors=factors,
        skipped=skipped,
    )
