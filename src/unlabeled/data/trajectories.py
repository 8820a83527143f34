"""Walks of an agent that knows where it is; a sample is a walk: what it saw, and the pose of every frame.

Accepted besides the built-in `rooms` (`rooms:still`, where the walker stands still):

- a folder of .npz files, one for each walk, perhaps in `train` and `test` folders, with `video` (frames, height, width,
  channels), or with the channels before the height, and `pose` (frames, 3): x and y in metres and the heading in
  radians, counter-clockwise from +x; perhaps also `depth` (frames, height, width) in metres, `action` (frames, actions)
  and `room` (frames,), whole numbers;
- one .npz file with these of all walks, which have one axis more, or with `train_video`, `test_video` and so on;
- parquet files with a row for each frame: `walk` (which walk it is from), `image` (encoded), `x`, `y`, `heading`, and
  perhaps `room`; frames are in the order of their rows. Larger images become squares of `store_size` (64 if None).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, read_npz
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.files import File, by_folder, by_name, walk
from unlabeled.data.image.data import Images
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import Batch, Data, Skipped
from unlabeled.data.tables import count_rows
from unlabeled.data.tables import one_line_errors as told

__all__ = ["Spans", "Walks", "built_in", "find", "from_walks"]

STORE_SIZE = 64
WALKS, FRAMES, SIZE = {"train": 64, "test": 16}, 128, 32
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "still": {"still": True}}
KEYS = ("video", "pose", "depth", "action", "room")
ROOMS = 10_000
"""Rooms that can be told apart; a higher number is a mistake."""
MOST_TURN = 16 * np.pi
"""Radians above which headings are rather degrees; fewer may be those of an agent that went in circles."""


class Walks(Data):
    """Walks in one block of memory, frame after frame.

    Args:
        pixels: All frames, uint8, shape (rows, channels, height, width).
        pose: x, y in metres, heading in radians counter-clockwise from +x, float, shape (rows, 3).
        lengths: Frames of each walk, int64, shape (walks,).
        name: What the data is called in reports.
        paths: Where each walk came from.
        depth: Distances that were seen, in metres, float, shape (rows, height, width).
        action: What the agent did after each frame, float, shape (rows, actions).
        room: Number of the room of each frame, for evaluation only, int64, shape (rows,).
        groups: As in `Data`.
        skipped: What was found but could not be used.
    """

    kind = "trajectory"
    unit = "walks"

    def __init__(
        self,
        pixels: Tensor,
        pose: Tensor,
        lengths: Tensor,
        *,
        name: str,
        paths: Sequence[str],
        depth: Tensor | None = None,
        action: Tensor | None = None,
        room: Tensor | None = None,
        groups: Tensor | None = None,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(name=name, paths=paths, groups=groups, skipped=skipped)
        assert len(lengths) == len(paths) and int(lengths.sum()) == len(pixels) == len(pose)
        self.pixels, self.lengths, self.room = pixels, lengths, room
        self.known = {"pose": pose.float()}
        """What a batch gives out beside the frames, by key, float, shape (rows, ...)."""
        self.known |= {
            key: value for key, value in (("depth", depth), ("action", action)) if value is not None
        }
        self.starts = lengths.cumsum(0) - lengths
        """Row of `pixels` at which each walk begins, int64, shape (walks,)."""

    @property
    def shape(self) -> dict[str, int]:
        channels, height, width = self.pixels.shape[1:]
        size, frames = min(height, width), int(self.lengths.min()) if len(self) else 0
        return {"channels": channels, "image_size": size, "frames": frames}

    def batch(self, index: Tensor) -> Batch:
        """Give out whole walks.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `video` uint8 (batch, frames, channels, height, width), `pose` float (batch, frames, 3) and, where known,
            `depth` float (batch, frames, height, width) and `action` float (batch, frames, actions); `time` int64
            (batch, frames), the number of each frame; `index` int64 (batch,). Shorter walks than the longest of the
            batch repeat their last frame.
        """
        lengths = self.lengths[index.cpu()]
        return self.at(index, torch.arange(int(lengths.max())).minimum(lengths[:, None] - 1))

    def at(self, index: Tensor, time: Tensor) -> Batch:
        """Give out chosen frames: as `batch`, with `time` int64 (batch, frames) the numbers of the frames."""
        rows = self.starts[index.cpu()][:, None] + time
        known = {key: values[rows].float() for key, values in self.known.items()}
        return self.on_device({"video": self.pixels[rows], **known, "time": time, "index": index})

    def digests(self) -> Tensor:
        """As in `Data`; of the frames and their poses."""
        spans = zip(self.starts.tolist(), (self.starts + self.lengths).tolist())
        return torch.tensor(
            [
                digest(in_one_channel(self.pixels[start:end]), self.known["pose"][start:end])
                for start, end in spans
            ],
            dtype=torch.int64,
        )

    def spans(self, frames: int, stride: int = 1) -> "Spans":
        """The same walks, of which a batch shows a stretch that begins anywhere.

        Args:
            frames: Frames of a stretch, at least 1.
            stride: Steps from one frame to the next, at least 1.

        Raises:
            ValueError: A walk is shorter than that.
        """
        return Spans(self, frames, stride)

    def frames(self) -> Images:
        """All frames as images: labels are the rooms, factors `x`, `y`, `heading_sin` and `heading_cos`."""
        walks, times = self.places().unbind(1)
        rows = self.starts[walks] + times
        whole = len(rows) == len(self.pixels) and bool((rows == torch.arange(len(rows))).all())
        pixels, pose = self.pixels if whole else self.pixels[rows], self.known["pose"][rows]
        x, y, heading = pose.unbind(1)
        rooms = None if self.room is None else self.room[rows].long()
        return Images(
            pixels.flatten(),
            torch.tensor(pixels.shape[2:]).repeat(len(rows), 1),
            channels=pixels.shape[1],
            name=self.name,
            paths=[f"{self.paths[walk]}/{time:06d}" for walk, time in zip(walks.tolist(), times.tolist())],
            labels=rooms,
            classes=None
            if self.room is None
            else [f"room {room}" for room in range(int(self.room.max()) + 1)],
            factors={"x": x, "y": y, "heading_sin": heading.sin(), "heading_cos": heading.cos()},
            groups=self.groups_of(walks),
            skipped=self.skipped,
        )

    def places(self) -> Tensor:
        """Walk (its row) and number of every frame, int64, shape (images, 2), in the order of `frames`."""
        parts = [
            torch.stack([torch.full((length,), row), torch.arange(length)], 1)
            for row, length in enumerate(self.lengths.tolist())
        ]
        return torch.cat(parts) if parts else torch.zeros(0, 2, dtype=torch.int64)

    def _keep(self, rows: Tensor) -> None:
        self.lengths, self.starts = self.lengths[rows], self.starts[rows]


class Spans(Data):
    """Stretches of walks that begin anywhere; see `Walks.spans`."""

    kind = "trajectory"
    unit = "walks"

    def __init__(self, walks: Walks, frames: int, stride: int = 1) -> None:
        super().__init__(name=walks.name, paths=walks.paths, groups=walks.groups, skipped=walks.skipped)
        check.at_least(1, frames=frames, stride=stride)
        shortest, needed = walks.shape["frames"], stride * (frames - 1) + 1
        if needed > shortest:
            raise UserError(
                f"a stretch must have at most {shortest} steps, the shortest walk of {walks.name}, "
                f"got {frames} frames of stride {stride}"
            )
        self.walks, self.count, self.stride, self.device = walks, frames, stride, walks.device

    @property
    def shape(self) -> dict[str, int]:
        return self.walks.shape | {"frames": self.count}

    def batch(self, index: Tensor) -> Batch:
        """Give out stretches, each beginning anywhere in its walk: the keys of `Walks.batch`."""
        steps = self.stride * torch.arange(self.count)
        room = self.walks.lengths[index.cpu()] - steps[-1]
        start = (torch.rand(len(index)) * room).long()
        return self.walks.at(index, start[:, None] + steps)

    def digests(self) -> Tensor:
        return self.walks.digests()

    def to(self, device: torch.device | str) -> Self:
        moved = super().to(device)
        moved.walks = self.walks.to(device)
        return moved

    def frames(self) -> Images:
        """All frames of the walks as images, as from `Walks.frames`."""
        return self.walks.frames()

    def _keep(self, rows: Tensor) -> None:
        self.walks = self.walks.subset(rows)


def from_walks(
    content: Mapping[str, np.ndarray | Tensor], *, name: str = "array", paths: Sequence[str] | None = None
) -> Walks:
    """Walks of arrays.

    Args:
        content: `video` uint8 (walks, frames, height, width, channels), or with the channels before the height, and
            `pose` (walks, frames, 3); perhaps `depth`, `action` and `room`.
        name: What the data is called in reports.
        paths: Where each walk came from.

    Raises:
        ValueError: One is missing, or its type or axes do not fit.
    """
    fitting = _fitting(content, name, lead=2)
    walks, frames = fitting["video"].shape[:2]
    flat: dict[str, Any] = {key: value.flatten(0, 1) for key, value in fitting.items()}
    return Walks(
        flat.pop("video"),
        flat.pop("pose"),
        torch.full((walks,), frames),
        name=name,
        paths=paths or [f"{name}[{row}]" for row in range(walks)],
        **flat,
    )


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Walks:
    """The built-in walks.

    Args:
        name: rooms or rooms:still.
        split: train or test.
    """
    from unlabeled.worlds import rooms

    variant = name.partition(":")[2]
    check.choice(VARIANTS, variant=variant)
    made = rooms.make(
        WALKS[split], ("train", "test").index(split), frames=FRAMES, size=SIZE, **VARIANTS[variant]
    )
    return from_walks(made, name=name)


def find(source: Any, how: OpenOptions) -> Mapping[str, Callable[[], Walks]]:
    """What opens each split of a source; "all" where it has none.

    Args:
        source: A path.
        how: OpenOptions data is opened.

    Raises:
        ValueError: No walks are there.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        raise UserError(
            "walks must be a path: an array has no poses; see unlabeled.data.trajectories.from_walks"
        )
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _one_file(path)
    files = [File.of(path.name, path.stat())] if path.is_file() else walk(path).files
    root = path.parent if path.is_file() else path
    if tables := [file for file in files if file.suffix == ".parquet"]:
        return {split: partial(_tables, root, name, part, how) for split, part in by_name(tables).items()}
    arrays = [file for file in files if file.suffix == ".npz"]
    if not arrays:
        raise UserError(f"no walks in {source}; expected .npz files with video and pose, or .parquet files")
    parts, _ = by_folder(arrays)
    return {split: partial(_arrays, root, name, part, how) for split, part in parts.items()}


def _one_file(path: Path) -> Mapping[str, Callable[[], Walks]]:
    """Walks of an .npz file, by split; a file of one walk is one walk."""
    content, _ = read_npz(path)
    if "video" in content and content["video"].ndim == 4:
        content = {key: values[None] for key, values in content.items() if key in KEYS}
    prefixes = [key.removesuffix("video") for key in content if key in ("video", "train_video", "test_video")]
    if not prefixes:
        raise UserError(
            f"{path} must hold video and pose, got {check.one_line(', '.join(content)) or 'nothing'}"
        )

    def opened(prefix: str) -> Walks:
        part = {key: content[prefix + key] for key in KEYS if prefix + key in content}
        return from_walks(part, name=str(path))

    return {prefix.rstrip("_") or "all": partial(opened, prefix) for prefix in prefixes}


def _arrays(root: Path, name: str, files: Sequence[File], how: OpenOptions) -> Walks:
    """Walks of .npz files, one each."""
    found: dict[str, dict[str, Tensor]] = {}
    skipped = []
    for file in files:
        path = str(root / file.path)
        try:
            found[path] = _fitting(read_npz(root / file.path)[0], path, lead=1)
            first = next(iter(found.values()))
            shapes = [{key: value.shape[1:] for key, value in walk.items()} for walk in (first, found[path])]
            if shapes[0] != shapes[1]:
                del found[path]
                raise UserError(f"arrays must be as those of {next(iter(found))}, got {shapes[1]}")
        except ValueError as error:
            skipped.append(Skipped(path, check.reason(error)))
    return _joined(name, found, skipped, how)


def _tables(root: Path, name: str, files: Sequence[File], how: OpenOptions) -> Walks:
    """Walks of parquet files with a row for each frame."""
    import pyarrow.parquet as pq

    whole: dict[str, dict[str, Tensor]] = {}
    skipped = []
    for file in files:
        path = root / file.path
        try:
            count_rows([path])
            with told(path):
                rows = pq.read_table(path).to_pylist()
                if missing := [
                    key for key in ("walk", "image", "x", "y", "heading") if rows and key not in rows[0]
                ]:
                    raise UserError(f"needs the columns walk, image, x, y, heading; {missing[0]} is missing")
        except ValueError as error:
            skipped.append(Skipped(str(path), check.reason(error)))
            continue
        frames: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            frames.setdefault(f"{file.path}#{row['walk']}", []).append(row)
        for place, steps in frames.items():
            try:
                content = _walk(steps, place, how)
                if whole and content["video"].shape[1:] != (
                    first := next(iter(whole.values()))["video"].shape[1:]
                ):
                    raise UserError(
                        f"its pictures must be of {tuple(first)}, as those of {next(iter(whole))}"
                    )
                whole[place] = content
            except ValueError as error:
                skipped.append(Skipped(str(root / place), check.reason(error)))
    return _joined(name, whole, skipped, how)


def _walk(steps: Sequence[Mapping[str, Any]], name: str, how: OpenOptions) -> dict[str, Tensor]:
    """A walk out of the rows of a table.

    Raises:
        ValueError: A picture or a number is missing, or cannot be read.
    """
    from unlabeled.data.image.decode import decode

    video, room = [], [step["room"] for step in steps if step.get("room") is not None]
    for step in steps:
        content = step["image"].get("bytes") if isinstance(step["image"], dict) else step["image"]
        if not isinstance(content, bytes):
            raise UserError("a picture is missing")
        image = decode(content, how.store_size or STORE_SIZE, how.channels or 3)
        top, left = ((side - min(image.shape[1:])) // 2 for side in image.shape[1:])
        side = min(image.shape[1:])
        video.append(image[:, top : top + side, left : left + side])
    if len({image.shape for image in video}) > 1:
        raise UserError("its pictures must be of one size")
    pose = np.array([[step[key] for key in ("x", "y", "heading")] for step in steps])
    found = {"video": np.stack(video), "pose": pose} | ({"room": np.array(room)} if room else {})
    fitting = _fitting(found, name, lead=1)
    return fitting | {"pose": fitting["pose"].float()}


def _joined(
    name: str, walks: Mapping[str, dict[str, Tensor]], skipped: list[Skipped], how: OpenOptions
) -> Walks:
    refuse_broken(name, skipped, len(walks), how.max_broken)
    keys = [key for key in KEYS if all(key in walk for walk in walks.values())]
    flat: dict[str, Any] = {key: torch.cat([walk[key] for walk in walks.values()]) for key in keys}
    lengths = torch.tensor([len(walk["pose"]) for walk in walks.values()])
    return Walks(
        flat.pop("video"), flat.pop("pose"), lengths, name=name, paths=list(walks), skipped=skipped, **flat
    )


def _fitting(content: Mapping[str, np.ndarray | Tensor], name: str, lead: int) -> dict[str, Tensor]:
    """Arrays as tensors with the channels first, refused where they do not belong together."""
    found = {key: as_tensor(value, f"{key} of {name}") for key, value in content.items() if key in KEYS}
    if missing := [key for key in ("video", "pose") if key not in found]:
        raise UserError(f"{name} must hold video and pose, {missing[0]} is missing")
    video = found["video"]
    if video.dtype != torch.uint8 or video.ndim != lead + 3 or 0 in video.shape:
        raise UserError(
            f"video of {name} must be uint8 of {lead + 3} axes, got {video.dtype} {tuple(video.shape)}"
        )
    if video.shape[-1] in (1, 3) and video.shape[-3] not in (1, 3):
        video = rearrange(video, "... h w c -> ... c h w")
    found["video"] = video.contiguous()
    axes = {"pose": (3,), "depth": tuple(video.shape[-2:]), "room": ()}
    for key, value in found.items():
        wanted = (*video.shape[:lead], *axes.get(key, value.shape[lead:]))
        if key != "video" and value.shape != wanted:
            raise UserError(f"{key} of {name} must have shape {wanted}, got {tuple(value.shape)}")
    for key in ("pose", "depth", "action"):
        if key in found and not found[key].isfinite().all():
            raise UserError(f"{key} of {name} must be finite, got NaN or infinity")
    if (turn := float(found["pose"][..., 2].abs().max())) > MOST_TURN:
        note(f"{name}: headings reach {turn:g}; they must be in radians")
    if "room" in found:
        room = found["room"].double()
        if not ((room == room.round()) & (room >= -1) & (room < ROOMS)).all():
            wrong = f"{room.amin():g}..{room.amax():g}"
            raise UserError(
                f"room of {name} must be whole numbers from -1 (unknown) to {ROOMS - 1}, got {wrong}"
            )
    return found
