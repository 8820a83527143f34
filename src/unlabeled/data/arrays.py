"""Arrays in .npy and .npz files, by split and by what they hold. Nothing is unpickled.

In an .npz file the split stands before or after the name, as in `train_images` or `x_train`; capitals do not matter.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from numpy.lib.npyio import NpzFile
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS
from unlabeled.data.limits import refuse_unpacked

__all__ = [
    "as_integers",
    "as_tensor",
    "as_uint8",
    "by_split",
    "channels_first",
    "parsed",
    "read_npy",
    "read_npz",
    "read_splits",
    "split_and_name",
]

T = TypeVar("T")
TRIES = 5


def parsed(read: Callable[[], T]) -> T:
    """What a reader of headers gives, which may fail at times where several threads read at once.

    Before Python 3.12 they share the counter of the depth to which ast parses, and any may raise a SystemError.
    """
    for _ in range(TRIES - 1):
        try:
            return read()
        except SystemError:
            continue
    return read()


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file."""
    try:
        # Copy on write: pages are read when needed and torch gets memory that it may call its own.
        return parsed(lambda: np.lib.format.open_memmap(path, mode="c"))
    except Exception as error:  # damaged files fail in numpy's parser or its allocation
        raise _unreadable(path, error) from error


def read_npz(
    path: Path, select: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an .npz file whose names are selected, and the names of all that are there.

    Raises:
        ValueError: It cannot be read, or is a small file that unpacks to a lot.
    """
    try:
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as file:
            assert file.zip is not None
            size = sum(member.file_size for member in file.zip.infolist())
            refuse_unpacked(size, os.fstat(stream.fileno()).st_size)
            content = {key: parsed(lambda key=key: file[key]) for key in file.files if select(key)}
            keys = list(file.files)
        if odd := [key for key, array in content.items() if not isinstance(array, np.ndarray)]:
            raise UserError(f"{odd[0]} is no array")
    except Exception as error:  # damaged files fail in zipfile, zlib, numpy's parser or its allocation
        raise _unreadable(path, error) from error
    return content, keys


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} must be a readable array without pickled objects: {check.reason(error)}")


def split_and_name(key: str) -> tuple[str, str]:
    """Split and name of an array: `train` and `x` of X_train, `all` and `x` of x."""
    key = key.lower()
    first, _, rest = key.partition("_")
    before, _, last = key.rpartition("_")
    for split, name in ((first, rest), (last, before)):
        if split in SPLITS and name:
            return SPLITS[split], name
    return "all", key


def by_split(content: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Arrays by split, `all` where their names tell none, and name."""
    parts: dict[str, dict[str, T]] = {}
    for key, array in content.items():
        split, name = split_and_name(key)
        parts.setdefault(split, {}).setdefault(name, array)
    return parts


def read_splits(
    path: Path, sample: str, others: Collection[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of the samples, and what is known of these, by split and name.

    Args:
        path: A .npz file, or a .npy file of the samples alone.
        sample: Name of the array of samples, such as `videos` or `train_videos`.
        others: Names of the other arrays that are read, all if None; one without a split is that of every split.

    Raises:
        ValueError: It cannot be read, or holds no samples.
    """
    if path.suffix.lower() == ".npy":
        return {"all": {sample: read_npy(path)}}
    content, keys = read_npz(path, lambda key: others is None or split_and_name(key)[1] in (sample, *others))
    parts = by_split(content)
    of_every_split = {name: array for name, array in parts.get("all", {}).items() if name != sample}
    parts = {split: of_every_split | part for split, part in parts.items() if sample in part}
    if not parts:
        listing = check.one_line(", ".join(keys)) or "nothing"
        raise UserError(f"{path} must hold {sample} or train_{sample}, got {listing}")
    return parts


def as_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """An array of numbers as a tensor, in the order of bytes of this machine."""
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise UserError(f"{name} must hold numbers of at most 64 bits, got {array.dtype}")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def channels_first(pixels: Tensor) -> Tensor:
    """Pixels with one or three channels before height and width, which may come after them."""
    last = pixels.shape[-1] in (1, 3) and pixels.shape[-3] not in (1, 3)
    return rearrange(pixels, "... height width channels -> ... channels height width") if last else pixels


def as_integers(values: np.ndarray | Tensor, count: int, what: str, name: str) -> Tensor:
    """Integers, one for each sample, as int64, shape (count,); `what` of `name` is what errors call them."""
    array = np.asarray(values).reshape(-1)
    if len(array) != count or array.dtype.kind not in "biu":
        raise UserError(f"{what} of {name} must be {count} integers, got {len(array)} of type {array.dtype}")
    if count and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} of {name} must be below 2**63, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def as_uint8(images: Tensor, name: str) -> Tensor:
    """Pixels in 0..255 of pixels in 0..255 or 0..1; `name` is what errors call them."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise UserError(f"{name} must be uint8 in 0..255 or floats in 0..1, got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name} must be uint8 in 0..255 or floats in 0..1, got floats in {low:g}..{high:g}")
    return (images * 255).round().to(torch.uint8)
