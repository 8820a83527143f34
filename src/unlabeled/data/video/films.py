"""Videos with the mask of every frame: built in, or in the layout of DAVIS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.files import davis_frames, is_davis
from unlabeled.data.worlds import built_in

__all__ = ["VOID", "Film", "films", "find_videos", "frame_counts", "listed"]

VOID = 255
"""Mask value of pixels without a ground truth, such as those between objects; they count in no score."""


class Film(NamedTuple):
    """A video with the mask of every frame.

    Args:
        name: What it is called.
        frames: uint8, shape (frames, channels, height, width).
        masks: Number of the thing at each pixel, 0 for none and 255 for void, uint8, shape (frames, height, width).
    """

    name: str
    frames: Tensor
    masks: Tensor


def find_videos(data: Any) -> Any:
    """Videos with masks: opened ones, or the root of a folder in the layout of DAVIS.

    Args:
        data: Opened videos with masks, the name of a built-in set, of which the test part is taken, or a folder in
            the layout of DAVIS, opened or not: JPEGImages/SIZE/NAME/*.jpg, Annotations/SIZE/NAME/*.png and, where
            only some are meant, ImageSets/YEAR/val.txt.

    Raises:
        ValueError: It is none of these.
    """
    data = data[-1] if isinstance(data, tuple) else data
    if isinstance(data, str | Path) and not Path(data).is_dir():
        data = built_in(str(data), "test")
    if isinstance(data, str | Path):
        return _checked(Path(data))
    if getattr(data, "masks", None) is not None:
        return data
    if is_davis(Path(data.name)):
        return _checked(Path(data.name))
    raise UserError(f"data must have masks, as blobs or a folder in the layout of DAVIS do, got {data.name}")


def films(data: Any) -> Iterator[Film]:
    """Videos with masks, one after the other.

    Args:
        data: What `find_videos` takes or gives.

    Raises:
        ValueError: There are no videos with masks, or a frame has no mask.
    """
    data = find_videos(data)
    if isinstance(data, Path):
        yield from (_film(*folders) for folders in _davis(data))
        return
    for row, (path, masks) in enumerate(zip(data.paths, data.masks)):
        video = data.batch(torch.tensor([row]))["video"][0]
        yield Film(path, video, torch.from_numpy(_numbered(masks[: len(video)].numpy(), shades=False)))


def frame_counts(data: Any) -> list[int]:
    """Number of frames of each of `films`, without decoding them.

    Args:
        data: What `find_videos` takes or gives.
    """
    data = find_videos(data)
    if isinstance(data, Path):
        return [len(_images(frames)) for frames, _ in _davis(data)]
    return data.counts.tolist()


def _checked(root: Path) -> Path:
    if missing := [name for name in ("JPEGImages", "Annotations") if not (root / name).is_dir()]:
        got = f"{root} without {missing[0]}"
        raise UserError(f"data must hold the folders JPEGImages and Annotations, got {got}")
    return root


def _davis(root: Path) -> Iterator[tuple[Path, Path]]:
    """Folders of the frames and of the masks of each video."""
    frames = davis_frames(root)
    masks = root / "Annotations" / frames.relative_to(root / "JPEGImages")
    for sequence in listed(root) or sorted(folder.name for folder in frames.iterdir()):
        yield frames / sequence, masks / sequence


def listed(root: Path) -> list[str]:
    """Names of the validation videos, those of 2017 where there are several lists."""
    lists = sorted(root.glob("ImageSets/*/val.txt"), key=lambda path: (path.parent.name != "2017", str(path)))
    lines = lists[0].read_text().split("\n") if lists else []
    # The list of 2016 names every frame and mask instead: /JPEGImages/480p/NAME/00000.jpg ...
    names = [line.split()[0] for line in lines if line.strip()]
    return list(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in names))


def _images(frames: Path) -> list[Path]:
    return sorted(path for path in frames.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def _film(frames: Path, masks: Path) -> Film:
    images = _images(frames)
    files = {path.stem: path for path in masks.glob("*.png")}
    missing = [path.stem for path in images if path.stem not in files]
    if missing or len(images) < 3:
        lacking = f"no mask of {', '.join(missing[:3])}" if missing else f"{len(images)} frames"
        raise UserError(
            f"videos must have 3 frames at least and a mask for each, got {frames.name} with {lacking}"
        )
    video = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in images])
    video = rearrange(torch.from_numpy(video), "t h w c -> t c h w")
    return Film(frames.name, video, _masks([files[path.stem] for path in images]))


def _masks(files: list[Path]) -> Tensor:
    """Masks of all frames; those with a palette and those in grey are each understood over the whole video."""
    read = [_mask(file) for file in files]
    for palette in (True, False):
        rows = [row for row, (_, coded) in enumerate(read) if coded is palette]
        numbers = _numbered(np.stack([read[row][0] for row in rows]), shades=not palette) if rows else []
        for row, mask in zip(rows, numbers):
            read[row] = mask, palette
    return torch.from_numpy(np.stack([mask for mask, _ in read]))


def _mask(path: Path) -> tuple[np.ndarray, bool]:
    """What a file says of each pixel, uint8, and whether that is an index into a palette."""
    with Image.open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise UserError(f"masks must have a palette or be grey, got {path} in mode {image.mode}")
        return np.array(image if image.mode == "P" else image.convert("L")), image.mode == "P"


def _numbered(masks: np.ndarray, shades: bool) -> np.ndarray:
    """Numbers of things in the masks of a video: as they are, 255 being void; 1 for white where all else is black.

    Args:
        masks: uint8, any shape.
        shades: Whether values from 128 on can be soft edges, so that all that is rather white is the thing.
    """
    values = np.unique(masks)
    soft = shades and VOID in values and ((values >= 128) & (values < VOID)).any()
    return (masks > 127).astype(np.uint8) if soft or set(values.tolist()) == {0, VOID} else masks
