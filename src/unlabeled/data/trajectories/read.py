"""Trajectories in files.

Read are

- a folder of .npz files, one for each trajectory, perhaps in `train` and `test` folders, with `video` (frames, height,
  width, channels), or with the channels before the height, and `pose` (frames, 3): x and y in metres and the heading in
  radians, counter-clockwise from +x; perhaps also `depth` (frames, height, width) in metres, `action` (frames, actions)
  and `room` (frames,), whole numbers;
- one .npz file with these of all trajectories, which have one axis more, or with `train_video`, `test_video` and so on;
- parquet files with a row for each frame: `walk` (which trajectory it is from), `image` (encoded), `x`, `y`, `heading`,
  and perhaps `room`; frames are in the order of their rows. Larger images become squares of `store_size` (64 if None).

`pans:PATH` makes trajectories of images instead: a camera slides and turns over each image of a folder, table or
archive, by known random motions of up to about a tenth of a frame and 30 degrees. Frames are squares of `store_size`,
or of the usual shorter side of smaller images.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import read_npz, read_splits
from unlabeled.data.files import File, by_folder, by_name, walk
from unlabeled.data.image.decode import decode
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import Skipped
from unlabeled.data.tables import open_table
from unlabeled.data.trajectories.data import KEYS, Trajectories, fitting, from_trajectories

__all__ = ["find"]

_COLUMNS = ("walk", "image", "x", "y", "heading")


class _Entry(NamedTuple):
    """A trajectory that was not read yet."""

    path: str
    file: str
    """Its path where it is skipped."""
    read: Callable[[], dict[str, Tensor]]
    optional: tuple[str, ...] = ()
    """Arrays that not every trajectory need have."""


def find(source: Any, options: OpenOptions) -> Mapping[str, Callable[[], Trajectories]]:
    """What opens each split of a source; "all" where it has none.

    Args:
        source: A path.
        options: How it is opened.

    Raises:
        ValueError: No trajectories are there.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        raise UserError(
            "trajectories must be a path: an array has no poses; see unlabeled.data.trajectories.from_trajectories"
        )
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_file() and path.suffix.lower() == ".npz":
        parts = read_splits(path, "video", KEYS)
        return {split: partial(_from_arrays, part, str(path)) for split, part in parts.items()}
    listing = walk(path)
    if tables := [file for file in listing.files if file.suffix == ".parquet"]:
        parts, trajectories = by_name(tables), _table_trajectories
    elif arrays := [file for file in listing.files if file.suffix == ".npz"]:
        parts, trajectories = by_folder(arrays)[0], _array_trajectories
    else:
        raise UserError(
            f"no trajectories in {source}; expected .npz files with video and pose, or .parquet files"
        )
    return {
        split: partial(_open, name, trajectories, listing.root, part, options)
        for split, part in parts.items()
    }


def _from_arrays(part: Mapping[str, np.ndarray], name: str) -> Trajectories:
    if part["video"].ndim == 4:  # one trajectory
        part = {key: values[None] for key, values in part.items()}
    return from_trajectories(part, name=name)


def _open(
    name: str,
    trajectories: Callable[[Path, Sequence[File], OpenOptions, list[Skipped]], Iterator[_Entry]],
    root: Path,
    files: Sequence[File],
    options: OpenOptions,
) -> Trajectories:
    """Trajectories of files, all with the same arrays."""
    whole: dict[str, dict[str, Tensor]] = {}
    skipped: list[Skipped] = []
    expected: dict[str, Any] = {}
    for entry in trajectories(root, files, options, skipped):
        try:
            arrays = entry.read()
            shapes = {key: tuple(v.shape[1:]) for key, v in arrays.items() if key not in entry.optional}
            expected = expected or shapes
            if shapes != expected:
                raise UserError(f"arrays must be as those of {next(iter(whole))}, got {shapes}")
            whole[entry.path] = arrays
        except ValueError as error:
            skipped.append(Skipped(entry.file, check.reason(error)))
    refuse_broken(name, skipped, len(whole), options.max_broken)
    keys = [key for key in KEYS if all(key in arrays for arrays in whole.values())]
    flat: dict[str, Any] = {key: torch.cat([arrays[key] for arrays in whole.values()]) for key in keys}
    lengths = torch.tensor([len(arrays["pose"]) for arrays in whole.values()])
    about = {"name": name, "paths": list(whole), "skipped": skipped}
    return Trajectories(flat.pop("video"), flat.pop("pose"), lengths, **about, **flat)


def _array_trajectories(
    root: Path, files: Sequence[File], options: OpenOptions, skipped: list[Skipped]
) -> Iterator[_Entry]:
    """Trajectories of .npz files, one each."""
    for path in (root / file.path for file in files):
        yield _Entry(str(path), str(path), lambda path=path: fitting(read_npz(path)[0], str(path), 1))


def _table_trajectories(
    root: Path, files: Sequence[File], options: OpenOptions, skipped: list[Skipped]
) -> Iterator[_Entry]:
    """Trajectories of parquet files with a row for each frame; tables that cannot be read are added to `skipped`."""
    for file in files:
        frames: dict[str, list[dict[str, Any]]] = {}
        try:
            table = open_table(root / file.path)
            missing = [key for key in _COLUMNS if table.rows and key not in table.schema.names]
            if missing:
                raise UserError(f"needs the columns {', '.join(_COLUMNS)}; {missing[0]} is missing")
            for row in table.records():
                frames.setdefault(f"{file.path}#{row['walk']}", []).append(row)
        except ValueError as error:
            skipped.append(Skipped(str(root / file.path), check.reason(error)))
            continue
        for path, steps in frames.items():
            read = partial(_from_rows, steps, path, options)
            yield _Entry(path, str(root / path), read, optional=("room",))


def _from_rows(steps: Sequence[Mapping[str, Any]], name: str, options: OpenOptions) -> dict[str, Tensor]:
    """Arrays of a trajectory out of the rows of a table.

    Raises:
        ValueError: A picture or a number is missing, or cannot be read.
    """
    video = []
    for step in steps:
        content = step["image"].get("bytes") if isinstance(step["image"], dict) else step["image"]
        if not isinstance(content, bytes):
            raise UserError("a picture is missing")
        image = decode(content, options.side("trajectory"), options.channels or 3)
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        video.append(image[:, top : top + side, left : left + side])
    if len({image.shape for image in video}) > 1:
        raise UserError("its pictures must be of one size")
    pose = np.array([[step[key] for key in ("x", "y", "heading")] for step in steps])
    arrays = {"video": np.stack(video), "pose": pose}
    if room := [step["room"] for step in steps if step.get("room") is not None]:
        arrays["room"] = np.array(room)
    tensors = fitting(arrays, name, 1)
    return tensors | {"pose": tensors["pose"].float()}
