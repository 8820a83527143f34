"""Videos with key points in every frame, in the layout of JHMDB.

joint_positions/CLASS/VIDEO/joint_positions.mat holds pos_img: x and y of each joint in each frame, counted from 1, of
shape (2, joints, frames). The frames are in Rename_Images/CLASS/VIDEO/*.png, or in a video CLASS/VIDEO.avi in another
folder. Where there are official splits (see `official`), the videos are those to test on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import walk
from unlabeled.data.image.decode import SUFFIXES as IMAGES
from unlabeled.data.notes import note
from unlabeled.data.video.decode import SUFFIXES, read_all
from unlabeled.data.video.official import listing, official_sources

__all__ = ["Posed", "PosedFile", "find_poses", "posed_films"]

JOINTS, FRAMES = "joint_positions", "Rename_Images"
FILE = "joint_positions.mat"


class PosedFile(NamedTuple):
    """A video whose key points are read.

    Attributes:
        name: CLASS/VIDEO.
        frames: A folder of frames, or a video.
        points: As in `Posed`.
    """

    name: str
    frames: Path
    points: Tensor


class Posed(NamedTuple):
    """A video with key points.

    Attributes:
        name: What it is called.
        frames: uint8, shape (frames, channels, height, width).
        points: x and y of each joint in pixels, 0 in the middle of the first, NaN where unknown, float, shape (frames,
            joints, 2).
    """

    name: str
    frames: Tensor
    points: Tensor


def find_poses(data: Any, fold: int | None = None) -> list[PosedFile] | None:
    """Videos with key points.

    Args:
        data: What the user named; opened data is looked for by its name.
        fold: Number of the official split; None takes the first.

    Returns:
        The videos that can be used, the others being named in a note; None where there is no folder of that layout.

    Raises:
        ValueError: None can be used.
    """
    data = data[-1] if isinstance(data, tuple) else data
    name = data if isinstance(data, str | Path) else getattr(data, "name", "")
    root = Path(name).expanduser()
    if not (root / JOINTS).is_dir():
        return None
    below = walk(root)
    files = [file for file in below.files if Path(file.path).match(f"{JOINTS}/*/*/{FILE}")]
    sources = official_sources(below, str(name), files, True, fold)
    matrices = [root / file.path for file in files]
    if sources is not None:
        matrices = [Path(str(item.content)) for item in sources["test"].read().items]
    videos, left_out = [], []
    for file in matrices:
        label, video = file.parts[-3:-1]
        try:
            points = _points(file)
            if videos and points.shape[1] != (joints := videos[0].points.shape[1]):
                raise UserError(f"{points.shape[1]} joints, not {joints}")
            videos.append(PosedFile(f"{label}/{video}", _frames_of(root, label, video), points))
        except ValueError as error:
            left_out.append(f"{label}/{video} ({check.reason(error)})")
    _tell(str(name), left_out, len(videos) + len(left_out))
    if not videos:
        raise UserError(f"{name} must hold videos with key points, got {listing(left_out) or f'no {FILE}'}")
    return videos


def posed_films(files: Sequence[PosedFile]) -> Iterator[Posed]:
    """The videos with their frames, one after the other; those that cannot be read are named in a note."""
    left_out = []
    for file in files:
        try:
            frames = torch.from_numpy(read_all(file.frames))
        except ValueError as error:
            left_out.append(f"{file.name} ({check.reason(error)})")
            continue
        count = min(len(frames), len(file.points))
        if len(frames) != len(file.points):
            note(
                f"{file.name}: the first {count} of {len(frames)} frames, as key points are known in {len(file.points)}"
            )
        yield Posed(file.name, frames[:count], file.points[:count])
    _tell("key points", left_out, len(files))


def _tell(name: str, left_out: Sequence[str], count: int) -> None:
    if left_out:
        note(f"{name}: skipped {len(left_out):,} of {count:,} videos: {listing(left_out)}")


def _frames_of(root: Path, label: str, video: str) -> Path:
    """Folder of the frames of a video, or its file."""
    folders = [folder for folder in root.iterdir() if folder.is_dir() and folder.name != JOINTS]
    for folder in sorted(folders, key=lambda folder: (folder.name != FRAMES, folder.name)):
        place = folder / label / video
        if place.is_dir() and any(file.suffix.lower() in IMAGES for file in place.iterdir()):
            return place
        for suffix in SUFFIXES:
            if (file := folder / label / f"{video}{suffix}").is_file():
                return file
    raise UserError("no frames")


def _points(file: Path) -> Tensor:
    """x and y of each joint, float, shape (frames, joints, 2)."""
    from scipy.io import loadmat

    try:
        content = loadmat(file, variable_names=["pos_img"])
    except Exception as error:  # scipy's reader raises anything on bytes that it did not expect
        raise UserError(f"{FILE} cannot be read: {check.reason(error)}") from error
    if "pos_img" not in content:
        raise UserError(f"{FILE} without pos_img")
    points = torch.as_tensor(content["pos_img"], dtype=torch.float32)
    if points.ndim != 3 or points.shape[0] != 2 or points.shape[2] < 2:
        raise UserError(f"pos_img of shape {tuple(points.shape)}, not (2, joints, 2 frames or more)")
    return rearrange(points - 1, "xy joints frames -> frames joints xy")
