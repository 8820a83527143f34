"""Videos in one flat block of memory, given out whole or as clips.

Opened are folders of video files, perhaps in class folders and these in split folders; folders of folders of frames;
.npy files, .npz files and arrays of shape (samples, frames, channels, height, width), or in numpy with the channels
last, or without them; and single files. All frames of a data set get one size: its usual aspect, with a shorter
side of `store_size`; what is wider or higher is cut off around the centre. Frames count as they are in the file,
whatever the time between them.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, Unpack

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, as_uint8, read_npy, read_npz
from unlabeled.data.cache import folder_of, kept
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.files import SPLITS, davis_frames, is_davis, walk
from unlabeled.data.image import decode
from unlabeled.data.image.data import fits_on
from unlabeled.data.labels import from_array, numbered
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.pool import in_order
from unlabeled.data.samples import About, Batch, Data, Skipped
from unlabeled.data.sources import Source, find_files
from unlabeled.data.video import decode as decode_video
from unlabeled.worlds import balls, blobs, moving_digits

__all__ = ["STORE_SIZE", "Videos", "built_in", "find", "from_videos"]

STORE_SIZE = 112
"""Shorter side in pixels to which larger videos are shrunk."""

_LARGEST = 2**28
_WORLDS: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "moving_digits": (moving_digits, {}, "digit"),
    "moving_digits:direction": (moving_digits, {"size": 24}, "direction"),
    "moving_digits:two": (moving_digits, {"digits": 2, "size": 32}, "digit"),
    "balls": (balls, {"mode": "gravity"}, "direction"),
    "balls:reversible": (balls, {"mode": "elastic"}, "direction"),
    "balls:static": (balls, {"mode": "static"}, None),
    "blobs": (blobs, {}, "shape_2"),
}
_CLASSES = {
    "digit": [str(digit) for digit in range(10)],
    "direction": moving_digits.HEADINGS,
    "shape_2": ["disc", "square"],
}
_COUNTS = {"train": 2000, "test": 500}
_BLOBS = {"train": 240, "test": 60}


class Videos(Data):
    """Videos ready for training: a batch is an index operation.

    Args:
        pixels: All frames of all videos one after the other, each as (channels, height, width), uint8, shape
            (bytes,).
        counts: Frames of each video, int64, shape (samples,).
        size: Channels, height and width of every frame.
        name: What the data is called in reports.
        paths: Where each video came from.
        fps: Frames per second of each video on average, float, shape (samples,); 0 where unknown.
        masks: What is to be seen at each pixel, uint8, shape (samples, frames, height, width), where that is known.
        **about: As in `Data`.
    """

    kind = "video"
    unit = "videos"
    group_unit = "recordings"

    def __init__(
        self,
        pixels: Tensor,
        counts: Tensor,
        size: tuple[int, int, int],
        *,
        name: str,
        paths: Sequence[str],
        fps: Tensor | None = None,
        masks: Tensor | None = None,
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        assert len(counts) == len(paths) and int(counts.sum()) * size[0] * size[1] * size[2] == len(pixels)
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
            (batch,) gives their true numbers of frames.
        """
        rows = index.cpu()
        counts = self.counts[rows]
        frames = torch.arange(int(counts.amax()))
        places = self._at(rows, torch.minimum(frames, counts[:, None] - 1))
        if self.slack.any():
            starts = torch.rand(len(rows)) * (self.slack[rows] + 1)
            places = places + starts.long()[:, None]
        video = self.table[places.to(self.table.device)]
        batch: Batch = {"video": video.to(self.device), "index": index.to(self.device)}
        if self.places is None and bool((self.counts != self.counts[:1]).any()):
            batch["frames"] = counts.to(self.device)
        return batch

    def digests(self) -> Tensor:
        """As in `Data`; of clips that start anywhere, with the first start they can have."""
        numbers = []
        for row, count in enumerate(self.counts.tolist()):
            if self.places is None:
                frames = self.table[int(self.first[row]) :][:count]
            else:
                frames = self.table[self.places[row].to(self.table.device)]
            numbers.append(digest(in_one_channel(frames.cpu())))
        return torch.tensor(numbers, dtype=torch.int64)

    def clips(self, frames: int, stride: int = 1, *, random: bool = True) -> Self:
        """Short clips of the videos as samples: a video gives as many as it holds side by side.

        Each clip starts anywhere in its own share of the video, so that every start can occur, and each as often
        as its neighbours. Videos that are too short are left out and listed in `skipped`.

        Args:
            frames: Frames of a clip, at least 1.
            stride: Steps from one frame of a clip to the next, in frames of the video, at least 1.
            random: Whether a clip starts elsewhere each time, drawn from torch's default generator; otherwise it
                lies in the middle of its share and overlaps no other. Clips of clips always do the latter.

        Raises:
            ValueError: A number is too small, or no video is long enough.
        """
        check.whole(frames=frames, stride=stride)
        check.at_least(1, frames=frames, stride=stride)
        length = (frames - 1) * stride + 1
        if int(self.counts.amax()) < length:
            longest = int(self.counts.amax())
            raise UserError(
                f"(frames - 1) * stride + 1 must be at most {longest}, the frames of the longest video in "
                f"{self.name}, got {length}"
            )
        spans = self.counts // length
        rows = torch.arange(len(self)).repeat_interleave(spans)
        number = torch.arange(len(rows)) - (spans.cumsum(0) - spans)[rows]
        starts = self.counts[rows] - length + 1
        if random and self.places is None:
            low, high = number * starts // spans[rows], (number + 1) * starts // spans[rows]
            slack = high - low - 1
        else:
            begin, end = (share * self.counts[rows] // spans[rows] for share in (number, number + 1))
            low, slack = begin + (end - begin - length) // 2, torch.zeros_like(starts)
        view = self._view(rows, low[:, None] + stride * torch.arange(frames), slack)
        view.paths = [f"{path}[{start}:]" for path, start in zip(view.paths, low.tolist())]
        view.skipped = self.skipped + [
            Skipped(self.paths[row], f"{self.counts[row]} frames, fewer than the {length} of a clip")
            for row in (spans == 0).nonzero().flatten().tolist()
        ]
        return view

    def spread(self, frames: int) -> Self:
        """Each video as `frames` frames that are spread evenly over all of it, its first and last among them."""
        check.at_least(1, frames=frames)
        share = torch.linspace(0, 1, frames) if frames > 1 else torch.full((1,), 0.5)
        chosen = (share * (self.counts[:, None] - 1)).round().long()
        return self._view(torch.arange(len(self)), chosen, torch.zeros_like(self.counts))

    def middle(self, frames: int, stride: int = 1) -> Self:
        """Each video as the clip in its middle; shorter videos stay at their last frame."""
        check.at_least(1, frames=frames, stride=stride)
        start = (self.counts - ((frames - 1) * stride + 1)).clamp(min=0) // 2
        chosen = torch.minimum(start[:, None] + stride * torch.arange(frames), self.counts[:, None] - 1)
        return self._view(torch.arange(len(self)), chosen, torch.zeros_like(self.counts))

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there if half its free memory is enough."""
        moved = super().to(device)
        if fits_on(self.table.numel(), moved.device):
            moved.table = self.table.to(device)
        return moved

    def _at(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """Rows of `table` of the `chosen` frames of some samples, int64, shape (rows, frames)."""
        return self.first[rows, None] + chosen if self.places is None else self.places[rows].gather(1, chosen)

    def _view(self, rows: Tensor, chosen: Tensor, slack: Tensor) -> Self:
        """Samples that show some frames of some of these samples, sharing their memory."""
        view = copy.copy(self)
        view.places, view.slack = self._at(rows, chosen), slack + self.slack[rows]
        view.counts = torch.full((len(rows),), chosen.shape[1])
        view.first, view.fps, view.masks = self.first[rows], self.fps[rows], None
        view.paths = [self.paths[row] for row in rows.tolist()]
        view.labels = None if self.labels is None else self.labels[rows]
        alone = self.groups is None and len(rows.unique()) == len(rows)
        view.groups = None if alone else self.groups_of(rows)
        view.factors = {name: values[rows] for name, values in self.factors.items() if values.ndim == 1}
        if not view.slack.any():
            frames = {name: values[rows] for name, values in self.factors.items() if values.ndim == 2}
            view.factors |= {name: values.gather(1, chosen) for name, values in frames.items()}
        return view

    def _keep(self, rows: Tensor) -> None:
        self.counts, self.first = self.counts[rows], self.first[rows]
        self.fps, self.slack = self.fps[rows], self.slack[rows]
        self.places = None if self.places is None else self.places[rows]
        self.masks = None if self.masks is None else self.masks[rows]


def from_videos(
    video: Tensor,
    labels: Tensor | None = None,
    *,
    name: str = "array",
    classes: list[str] | None = None,
    factors: Mapping[str, Tensor] | None = None,
    masks: Tensor | None = None,
) -> Videos:
    """Data of videos that are all there.

    Args:
        video: uint8, shape (samples, frames, channels, height, width).
        labels: int64, shape (samples,).
        name: What the data is called in reports.
        classes: Names of the classes by label.
        factors: What else is known, as in `Videos`.
        masks: What is to be seen at each pixel, as in `Videos`.
    """
    samples, frames, channels, height, width = video.shape
    return Videos(
        video.reshape(-1),
        torch.full((samples,), frames),
        (channels, height, width),
        name=name,
        paths=[f"{name}[{row}]" for row in range(samples)],
        labels=labels,
        classes=classes,
        factors=factors,
        masks=masks,
    )


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Videos:
    """Open a procedural set: see `unlabeled.worlds`. What is known of every frame is that of the middle one.

    Args:
        name: moving_digits, balls or blobs, perhaps with a variant after a colon: moving_digits:direction (which
            says the heading instead of the digit), moving_digits:two, balls:reversible or balls:static.
        split: "train" or "test".

    Raises:
        ValueError: There is no such set or variant.
    """
    check.choice(_WORLDS, data=name)
    check.choice(_COUNTS, split=split)
    world, options, known = _WORLDS[name]
    if world is moving_digits:
        options = {**options, "glyphs": split}
    counts = _BLOBS if world is blobs else _COUNTS
    made = world.make(counts[split], int(split == "test"), **options)
    video, masks = made.pop("video"), made.pop("masks", None)
    labels = classes = None
    if known is not None:
        found, labels = made[known].unique(return_inverse=True)
        classes = [_CLASSES[known][number] for number in found.tolist()]
    middle = video.shape[1] // 2
    factors = {key: values if values.ndim == 1 else values[:, middle] for key, values in made.items()}
    return from_videos(video, labels, name=name, classes=classes, factors=factors, masks=masks)


def find(
    source: str | os.PathLike[str] | np.ndarray | Tensor, how: OpenOptions
) -> Mapping[str, Callable[[], Videos]]:
    """What opens each split of videos; "all" where there are none.

    Args:
        source: A folder of video files or of folders of frames, perhaps in class folders and these in split folders;
            a folder in the layout of DAVIS, of which the frames are read; one video file; a .npy or .npz file
            (`videos` and perhaps `labels`, or both once per split as `train_videos` and so on); or an array.
        how: OpenOptions they are opened. `channels` None makes files colour and leaves arrays as they are.

    Raises:
        ValueError: There is no video.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return {"all": partial(_from_array, source, None, "array", how)}
    path, name = Path(source).expanduser(), os.fspath(source)
    if is_davis(path):
        path = davis_frames(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _from_npz(path, how)
    if path.suffix.lower() == ".npy" and path.is_file():
        array = read_npy(path)
        if array.ndim != 4 or array.shape[-1] not in (1, 3):
            return {"all": partial(_from_array, array, None, name, how)}
    suffixes = (*decode_video.SUFFIXES, ".npy")
    files = [path.name] if path.is_file() else [file.path for file in walk(path).files]
    if any(file.lower().endswith(suffixes) for file in files):
        found = find_files(path, name, suffixes, "videos", how.label)
        return {split: partial(_decoded, part, how, None) for split, part in found.items()}
    if any(file.lower().endswith(decode.SUFFIXES) for file in files):
        found = find_files(path, name, decode.SUFFIXES, "videos or frames")
        return {split: partial(_decoded, part, how, path) for split, part in found.items()}
    found = find_files(path, name, suffixes, "videos")  # says what is there instead
    raise AssertionError(found)


class _Video(NamedTuple):
    """A video that was not decoded yet."""

    path: str
    label: str | None
    content: Path


def _decoded(source: Source, how: OpenOptions, frames_below: Path | None) -> Videos:
    """Videos of a source, decoded once; where it holds frames, each folder of them is a video."""
    store_size = how.store_size or STORE_SIZE
    channels = how.channels or 3
    key = ["videos", 2, source.fingerprint, store_size, channels, frames_below is not None]

    def write(stream: BinaryIO) -> dict[str, Any]:
        return _write(_listed(source, frames_below), stream, store_size, channels, how)

    pixels, about = kept(key, write, folder_of(how.cache))
    broken = [Skipped(source.prefix + path, reason) for path, reason in about["skipped"]]
    refuse_broken(source.name, broken, len(about["paths"]), how.max_broken)
    paths = [source.prefix + path for path in about["paths"]]
    known = numbered(source.stated(paths, about["labels"]), about["classes"])
    return Videos(
        pixels,
        torch.tensor(about["counts"]),
        (channels, *about["size"]),
        name=source.name,
        paths=paths,
        fps=torch.tensor(about["fps"]),
        labels=known.tensor,
        classes=known.classes,
        skipped=source.skipped + broken + known.skipped(source.name),
    )


def _listed(source: Source, frames_below: Path | None) -> tuple[list[str] | None, list[_Video]]:
    """Names of the classes, and the videos."""
    reading = source.read()
    items = [_Video(item.path, _name(item.label), Path(str(item.content))) for item in reading.items]
    if frames_below is None:
        return reading.classes, items
    folders: dict[str, _Video] = {}
    for item in items:
        folder = os.path.dirname(item.path)
        # The folder that holds the frames is the video; only one above it is a class.
        label = item.label if item.label != os.path.basename(folder) else None
        folders.setdefault(folder, _Video(folder, label, item.content.parent))
    videos = list(folders.values())
    names = {video.label for video in videos}
    return (None if None in names or len(names) < 2 else reading.classes), videos


def _name(label: int | str | None) -> str | None:
    return label if isinstance(label, str) else None


def _write(
    listed: tuple[list[str] | None, list[_Video]],
    stream: BinaryIO,
    store_size: int,
    channels: int,
    how: OpenOptions,
) -> dict[str, Any]:
    """Write all frames of all videos one after the other and describe them."""
    classes, videos = listed
    workers = how.workers or os.cpu_count() or 1
    indices = {}
    skipped: list[Skipped] = []
    for video, found in _at_once(lambda video: decode_video.index(video.content), videos, workers):
        if isinstance(found, str):
            skipped.append(Skipped(video.path, found))
        else:
            indices[video] = found
    size = _common_size([(found.height, found.width) for found in indices.values()], store_size)
    whole = 3 * size[0] * size[1]
    small = [video for video, found in indices.items() if len(found) * whole <= _LARGEST]
    large = [video for video, found in indices.items() if len(found) * whole > _LARGEST]
    written: list[tuple[_Video, int]] = []

    def progress() -> None:
        if how.progress is not None:
            how.progress(len(written) + len(skipped), len(videos))

    for video, found in _at_once(lambda video: decode_video.read_all(video.content, size), small, workers):
        if isinstance(found, str):
            skipped.append(Skipped(video.path, found))
        else:
            stream.write(_in_channels(found, channels).tobytes())
            written.append((video, len(found)))
        progress()
    for video in large:  # a film does not fit into memory: frame by frame
        start, count = stream.tell(), 0
        try:
            for frame in decode_video.frames(video.content, size):
                stream.write(_in_channels(frame[None], channels).tobytes())
                count += 1
            written.append((video, count))
        except ValueError as error:
            stream.seek(start)
            stream.truncate()
            skipped.append(Skipped(video.path, check.reason(error)))
        progress()
    return {
        "size": size,
        "counts": [count for _, count in written],
        "fps": [indices[video].fps for video, _ in written],
        "paths": [video.path for video, _ in written],
        "labels": [video.label for video, _ in written],
        "classes": classes,
        "skipped": skipped,
    }


def _common_size(sizes: list[tuple[int, int]], store_size: int) -> tuple[int, int]:
    """Height and width of all frames: the usual aspect, the usual shorter side but no more than `store_size`."""
    if not sizes:
        return store_size, store_size
    array = np.array(sizes)
    short = min(store_size, int(np.median(array.min(1))))
    aspect = float(np.median(array[:, 1] / array[:, 0]))
    return (short, round(short * aspect)) if aspect >= 1 else (round(short / aspect), short)


def _at_once(
    work: Callable[[_Video], Any], videos: list[_Video], workers: int
) -> Iterator[tuple[_Video, Any]]:
    """Results in order, made side by side in bounded memory; of what cannot be read, the reason as text."""

    def tried(video: _Video) -> Any:
        try:
            return work(video)
        except ValueError as error:
            return check.reason(error).replace(str(video.content), "file")

    return in_order(tried, videos, workers, ahead=1)


def _in_channels(frames: np.ndarray, channels: int) -> np.ndarray:
    """Frames (frames, channels, height, width) as grey or colour."""
    if frames.shape[1] == channels:
        return frames
    if channels == 3:
        return np.repeat(frames, 3, axis=1)
    grey = np.einsum("fchw,c->fhw", frames.astype(np.float32), np.array([0.299, 0.587, 0.114], np.float32))
    return np.rint(grey).astype(np.uint8)[:, None]


def _from_npz(path: Path, how: OpenOptions) -> Mapping[str, Callable[[], Videos]]:
    content, keys = read_npz(path, lambda key: key.endswith(("videos", "labels")))
    parts = {"": "all"} | {f"{name}_": split for name, split in SPLITS.items()}
    found = {
        split: partial(
            _from_array, content[f"{prefix}videos"], content.get(f"{prefix}labels"), str(path), how
        )
        for prefix, split in parts.items()
        if f"{prefix}videos" in content
    }
    if not found:
        raise UserError(
            f"{path} must hold videos or train_videos, got {check.one_line(', '.join(keys)) or 'nothing'}"
        )
    return found


def _from_array(array: np.ndarray | Tensor, labels: np.ndarray | None, name: str, how: OpenOptions) -> Videos:
    tensor = _channels_third(array, name)
    pixels = as_uint8(tensor, name)
    if how.channels not in (None, pixels.shape[2]):
        flat = _in_channels(rearrange(pixels, "n t c h w -> (n t) c h w").numpy(), how.channels)
        pixels = rearrange(torch.from_numpy(flat), "(n t) c h w -> n t c h w", n=len(pixels))
    data = from_videos(pixels, name=name)
    if labels is not None:
        known = numbered(from_array(labels, len(pixels), name))
        data.labels, data.classes, data.skipped = known.tensor, known.classes, known.skipped(name)
    return data


def _channels_third(array: np.ndarray | Tensor, name: str) -> Tensor:
    """An array as (samples, frames, channels, height, width)."""
    tensor = as_tensor(array, name)
    if tensor.ndim == 4:
        tensor = rearrange(tensor, "n t h w -> n t 1 h w")
    elif tensor.ndim == 5 and tensor.shape[2] not in (1, 3) and tensor.shape[4] in (1, 3):
        tensor = rearrange(tensor, "n t h w c -> n t c h w")
    if tensor.ndim != 5 or tensor.shape[2] not in (1, 3) or 0 in tensor.shape:
        raise UserError(
            f"{name} must have axes samples, frames, channels, height, width with 1 or 3 channels, "
            f"got shape {tuple(array.shape)}"
        )
    return tensor
