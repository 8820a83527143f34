"""Scenes that several cameras film at the same time; a sample is a scene.

Accepted besides the built-in `orbit` (`orbit:still`, where nothing moves, and `orbit:free`, with cameras at any place):

- a folder with a folder for each scene, in which each camera is a video (`scene/left.mp4`) or a folder of images in the
  order of their names (`scene/left/000001.jpg`); scenes may lie in `train` and `test` folders;
- a folder of .npz files, one for each scene, with `views` of shape (cameras, frames, height, width, channels) or with
  the channels before the height;
- one .npz file with `views` of all scenes, which has one axis more, or with `train_views` and `test_views`; other
  arrays of as many rows are factors.

Cameras are in the order of their names. The films of a scene start together; the longest are cut to the shortest.
Images become squares: their middle, resized to `store_size` (64 if None); arrays are kept as they are.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self, Unpack

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, read_npz
from unlabeled.data.cache import folder_of, kept
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.files import File, by_folder, walk
from unlabeled.data.image.data import Images
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import About, Batch, Data, Skipped
from unlabeled.data.video import decode as decode_video

__all__ = ["Moments", "Scenes", "built_in", "find", "from_views"]

STORE_SIZE = 64
SCENES = {"train": 120, "test": 20}
FRAMES = 24
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "still": {"still": True}, "free": {"free": True}}


class Scenes(Data):
    """Scenes in one block of memory: scene by scene, camera by camera, frame by frame.

    Args:
        pixels: All frames, uint8, shape (rows, channels, height, width).
        lengths: Frames that each camera has of each scene, int64, shape (scenes,).
        cameras: Cameras of every scene.
        name: What the data is called in reports.
        paths: Where each scene came from.
        **about: As in `Data`; factors may also be known of each moment, shape (scenes, frames).
    """

    kind = "cameras"
    unit = "scenes"

    def __init__(
        self,
        pixels: Tensor,
        lengths: Tensor,
        *,
        cameras: int,
        name: str,
        paths: Sequence[str],
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        assert len(lengths) == len(paths) and int(lengths.sum()) * cameras == len(pixels)
        self.pixels, self.lengths, self.cameras = pixels, lengths, cameras
        self.starts = cameras * (lengths.cumsum(0) - lengths)
        """Row of `pixels` at which each scene begins, int64, shape (scenes,)."""

    @property
    def shape(self) -> dict[str, int]:
        channels, height, width = self.pixels.shape[1:]
        size, frames = min(height, width), int(self.lengths.min()) if len(self) else 0
        return {"channels": channels, "image_size": size, "cameras": self.cameras, "frames": frames}

    def batch(self, index: Tensor) -> Batch:
        """Give out whole scenes.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `views` uint8 (batch, cameras, frames, channels, height, width), where shorter scenes than the longest
            of the batch repeat their last frame; `time` int64 (batch, cameras, frames), the number of each frame;
            `index` int64 (batch,).
        """
        lengths = self.lengths[index.cpu()]
        time = torch.arange(int(lengths.max())).minimum(lengths[:, None] - 1)
        camera = torch.arange(self.cameras).expand(len(index), -1)
        return self.views(index, camera, repeat(time, "batch frames -> batch k frames", k=self.cameras))

    def views(self, index: Tensor, camera: Tensor, time: Tensor) -> Batch:
        """Give out chosen frames of chosen cameras.

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

    def digests(self) -> Tensor:
        ends = self.starts + self.cameras * self.lengths
        spans = zip(self.starts.tolist(), ends.tolist(), self.lengths.tolist())
        return torch.tensor(
            [digest(in_one_channel(self.pixels[start:end]), str(length)) for start, end, length in spans],
            dtype=torch.int64,
        )

    def moments(self, count: int, radius: int = 0) -> "Moments":
        """The same scenes, of which a batch shows random moments twice.

        Args:
            count: Moments of a scene, at least 2.
            radius: 0 shows the same moments by two random cameras; else one random camera shows them and, the
                second time, other moments at most so many frames away.

        Raises:
            ValueError: A scene has too few frames, or but one camera where two are needed.
        """
        return Moments(self, count, radius)

    def frames(self) -> Images:
        """All frames as images, in the order of `places`: no labels, the factors of their scene and moment."""
        scene, camera, time = self.places().unbind(1)
        rows = self.starts[scene] + camera * self.lengths[scene] + time
        whole = len(rows) == len(self.pixels) and bool((rows == torch.arange(len(rows))).all())
        pixels = self.pixels if whole else self.pixels[rows]
        factors = {
            name: values[scene] if values.ndim == 1 else values[scene, time]
            for name, values in self.factors.items()
        }
        return Images(
            pixels.flatten(),
            torch.tensor(pixels.shape[2:]).repeat(len(rows), 1),
            channels=pixels.shape[1],
            name=self.name,
            paths=[
                f"{self.paths[s]}/camera{c}/{t:06d}"
                for s, c, t in zip(*map(Tensor.tolist, (scene, camera, time)))
            ],
            factors=factors,
            groups=self.groups_of(scene),
            skipped=self.skipped,
        )

    def places(self) -> Tensor:
        """Scene (its row), camera and number of every frame, int64, shape (images, 3), in the order of `frames`."""
        parts = [
            torch.cartesian_prod(torch.tensor([row]), torch.arange(self.cameras), torch.arange(length))
            for row, length in enumerate(self.lengths.tolist())
        ]
        return torch.cat(parts) if parts else torch.zeros(0, 3, dtype=torch.int64)

    def _keep(self, rows: Tensor) -> None:
        self.lengths, self.starts = self.lengths[rows], self.starts[rows]


class Moments(Data):
    """Random moments of scenes, shown twice; see `Scenes.moments`."""

    kind = "cameras"
    unit = "scenes"

    def __init__(self, scenes: Scenes, count: int, radius: int = 0) -> None:
        super().__init__(name=scenes.name, paths=scenes.paths, **scenes.about)
        check.at_least(2, count=count)
        check.at_least(0, radius=radius)
        shortest = scenes.shape["frames"]
        if count > shortest:
            raise UserError(
                f"moments must be at most {shortest}, the frames of the shortest scene, got {count}"
            )
        if not radius and scenes.cameras < 2:
            raise UserError(
                f"scenes must have at least 2 cameras, got {scenes.cameras}; views single takes one"
            )
        self.scenes, self.count, self.radius, self.device = scenes, count, radius, scenes.device

    @property
    def shape(self) -> dict[str, int]:
        return self.scenes.shape | {"cameras": 2, "frames": self.count}

    def batch(self, index: Tensor) -> Batch:
        """Give out random moments.

        Returns:
            `views` uint8 (batch, 2, count, channels, height, width); `time` int64 (batch, 2, count), rising along
            the first of the two; `index` int64 (batch,).
        """
        scenes, count = self.scenes, self.count
        lengths = scenes.lengths[index.cpu()][:, None]
        order = torch.rand(len(index), int(lengths.max()))
        order = order.masked_fill(torch.arange(order.shape[1]) >= lengths, 2.0)
        first = order.argsort(1)[:, :count].sort(1).values
        camera = torch.rand(len(index), scenes.cameras).argsort(1)
        if not self.radius:
            return scenes.views(index, camera[:, :2], torch.stack([first, first], 1))
        low, high = (first - self.radius).clamp(min=0), (first + self.radius).minimum(lengths - 1)
        # One of the frames around, without the frame itself: skip over it.
        second = low + (torch.rand(first.shape) * (high - low)).long()
        second += (second >= first).long()
        return scenes.views(index, camera[:, :1].expand(-1, 2), torch.stack([first, second], 1))

    def digests(self) -> Tensor:
        return self.scenes.digests()

    def to(self, device: torch.device | str) -> Self:
        moved = super().to(device)
        moved.scenes = self.scenes.to(device)
        return moved

    def frames(self) -> Images:
        """All frames of the scenes as images, as from `Scenes.frames`."""
        return self.scenes.frames()

    def _keep(self, rows: Tensor) -> None:
        self.scenes = self.scenes.subset(rows)


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
    tensor = _channels_first(views, name, 6)
    scenes, cameras, frames = tensor.shape[:3]
    for key, values in (factors or {}).items():
        if values.shape not in ((scenes,), (scenes, frames)):
            raise UserError(
                f"{key} of {name} must have shape ({scenes},) or ({scenes}, {frames}), got {tuple(values.shape)}"
            )
    return Scenes(
        tensor.flatten(0, 2),
        torch.full((scenes,), frames),
        cameras=cameras,
        name=name,
        paths=paths or [f"{name}[{row}]" for row in range(scenes)],
        factors=factors,
    )


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Scenes:
    """The built-in scenes.

    Args:
        name: orbit, orbit:still or orbit:free.
        split: train or test.
    """
    from unlabeled.worlds import orbit

    variant = name.partition(":")[2]
    check.choice(VARIANTS, variant=variant)
    made = orbit.make(SCENES[split], ("train", "test").index(split), frames=FRAMES, **VARIANTS[variant])
    return from_views(made.pop("views"), name=name, factors=made)


def find(source: Any, how: OpenOptions) -> Mapping[str, Callable[[], Scenes]]:
    """What opens each split of a source; "all" where it has none.

    Args:
        source: A path, or an array as in `from_views`.
        how: OpenOptions data is opened.

    Raises:
        ValueError: No scenes are there.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return {"all": partial(from_views, source)}
    path = Path(source).expanduser()
    if path.is_file():
        return _one_file(path)
    files = walk(path).files
    arrays = [file for file in files if file.suffix == ".npz"]
    parts, _ = by_folder(
        arrays or [file for file in files if file.suffix in (*decode_video.SUFFIXES, *SUFFIXES)]
    )
    if not any(parts.values()):
        raise UserError(
            f"no scenes in {source}; expected scene/camera.mp4, scene/camera/000001.jpg or .npz files"
        )
    read = _arrays if arrays else _films
    return {split: partial(read, path, os.fspath(source), part, how) for split, part in parts.items()}


def _one_file(path: Path) -> Mapping[str, Callable[[], Scenes]]:
    """Scenes of an .npz file, by split."""
    content, _ = read_npz(path)
    prefixes = [key.removesuffix("views") for key in content if key in ("views", "train_views", "test_views")]
    if not prefixes:
        raise UserError(
            f"{path} must hold views or train_views, got {check.one_line(', '.join(content)) or 'nothing'}"
        )

    def opened(prefix: str) -> Scenes:
        views = content[f"{prefix}views"]
        factors = {
            key.removeprefix(prefix): as_tensor(values, f"{key} of {path}")
            for key, values in content.items()
            if key.startswith(prefix) and not key.endswith("views") and values.shape[:1] == views.shape[:1]
        }
        return from_views(views, name=str(path), factors=factors)

    return {prefix.rstrip("_") or "all": partial(opened, prefix) for prefix in prefixes}


def _arrays(root: Path, name: str, files: Sequence[File], how: OpenOptions) -> Scenes:
    """Scenes of .npz files, one each."""
    scenes, paths, skipped = [], [], []
    for file in files:
        path = str(root / file.path)
        try:
            content, _ = read_npz(root / file.path)
            if "views" not in content:
                raise UserError(f"must hold views, got {check.one_line(', '.join(content)) or 'nothing'}")
            views = _channels_first(content["views"], path, 5)
            if scenes and (views.shape[:1], views.shape[2:]) != (scenes[0].shape[:1], scenes[0].shape[2:]):
                raise UserError(f"views differ from those of {paths[0]} in cameras or size")
        except ValueError as error:
            skipped.append(Skipped(path, check.reason(error)))
            continue
        scenes.append(views)
        paths.append(path)
    refuse_broken(name, skipped, len(scenes), how.max_broken)
    pixels = torch.cat([views.flatten(0, 1) for views in scenes])
    lengths = torch.tensor([views.shape[1] for views in scenes])
    return Scenes(pixels, lengths, cameras=scenes[0].shape[0], name=name, paths=paths, skipped=skipped)


def _films(root: Path, name: str, files: Sequence[File], how: OpenOptions) -> Scenes:
    """Scenes of videos or folders of images, decoded once."""
    scenes: dict[str, set[str]] = {}
    for file in files:  # a camera is a video, or the folder of an image
        camera = file.path if file.suffix in decode_video.SUFFIXES else os.path.dirname(file.path)
        scenes.setdefault(os.path.dirname(camera), set()).add(camera)
    usual = Counter(len(cameras) for cameras in scenes.values()).most_common(1)[0][0]
    size, channels = how.store_size or STORE_SIZE, how.channels or 3

    def write(stream: BinaryIO) -> dict[str, Any]:
        paths, lengths, skipped = [], [], []
        for done, (scene, cameras) in enumerate(sorted(scenes.items()), 1):
            try:
                if len(cameras) != usual:
                    raise UserError(f"{len(cameras)} cameras, where most scenes have {usual}")
                films = [_film(root / camera, size, channels) for camera in sorted(cameras)]
            except (ValueError, OSError) as error:
                skipped.append(Skipped(scene, check.reason(error)))
            else:  # a full disk is no broken scene
                length = min(map(len, films))
                for film in films:
                    stream.write(film[:length].tobytes())
                paths.append(scene)
                lengths.append(length)
            if how.progress is not None:
                how.progress(done, len(scenes))
        return {"paths": paths, "lengths": lengths, "skipped": skipped}

    key = ["cameras", os.path.realpath(root), files, size, channels]
    pixels, about = kept(key, write, folder_of(how.cache))
    skipped = [Skipped(str(root / path), reason) for path, reason in about["skipped"]]
    refuse_broken(name, skipped, len(about["paths"]), how.max_broken)
    return Scenes(
        pixels.view(-1, channels, size, size),
        torch.tensor(about["lengths"]),
        cameras=usual,
        name=name,
        paths=[str(root / path) for path in about["paths"]],
        skipped=skipped,
    )


def _film(path: Path, size: int, channels: int) -> np.ndarray:
    """Frames of one camera, uint8, shape (frames, channels, size, size)."""
    film = decode_video.read_all(path, (size, size))
    if channels == film.shape[1]:
        return film
    if channels == 3:
        return film.repeat(3, axis=1)
    gray = np.einsum("fchw,c->fhw", film.astype(np.float32), np.array([0.299, 0.587, 0.114], np.float32))
    return np.rint(gray)[:, None].astype(np.uint8)


def _channels_first(views: np.ndarray | Tensor, name: str, axes: int) -> Tensor:
    tensor = as_tensor(views, name)
    if tensor.dtype != torch.uint8 or tensor.ndim != axes or 0 in tensor.shape:
        wanted = f"uint8 of {axes} axes, (scenes,) cameras, frames, channels, height, width"
        raise UserError(f"views of {name} must be {wanted}, got {tensor.dtype} {tuple(tensor.shape)}")
    if tensor.shape[-1] in (1, 3) and tensor.shape[-3] not in (1, 3):
        tensor = rearrange(tensor, "... h w c -> ... c h w")
    return tensor.contiguous()
