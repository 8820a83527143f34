"""Images that are arrays already: tensors, numpy arrays, .npy and .npz files.

Accepted are numbers of any type, of shape (samples, height, width), (samples, height, width, channels) or (samples,
channels, height, width). A tensor of four axes is always the last of these; in numpy the channel axis is the one of
size 1 or 3, else the one beside two equal ones, else the smaller one. What is not uint8 is mapped to it by the range
of the array (see `levels`).

An .npz file holds `images` (or `image`, `x`, `data`) and perhaps `labels` (or `label`, `y`, `targets`, `target`), or
both once per split, which stands before or behind, as in `train_images` or `x_train`; capitals do not matter. Arrays
without names of their own are images (`arr_0`), perhaps followed by labels (`arr_1`), then perhaps by both of the test
part (`arr_2` and `arr_3`). Nothing is unpickled, nothing is resized.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.data import Images, from_images, with_channels
from unlabeled.data.image.levels import Levels, Ranges, finite, kind_of, say, storable, to_uint8
from unlabeled.data.labels import from_array as listed
from unlabeled.data.labels import numbered
from unlabeled.data.limits import refuse_unpacked

__all__ = [
    "as_integers",
    "as_tensor",
    "as_uint8",
    "find_arrays",
    "find_file",
    "from_array",
    "levels_of",
    "read_npy",
    "read_npz",
    "with_labels",
]

_VALUES = 2**16
"""Values of a channel that are mapped at a time."""
_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_WORDS = {
    **dict.fromkeys(("images", "image", "x", "data"), "images"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target"), "labels"),
}
"""Names of arrays in .npz files, the usual first, and what they hold."""
_UNNAMED = re.compile(r"arr_([0-3])")


def find_file(
    path: Path, channels: int | None, levels: Levels | None = None
) -> Mapping[str, Callable[[], Images]]:
    """What opens the images of a .npy or .npz file, by split; "all" where there are no splits.

    Args:
        path: The file.
        channels: As in `from_array`.
        levels: As in `from_array`.

    Raises:
        ValueError: The file holds no images in the form above.
    """
    if path.suffix.lower() == ".npy":
        return {"all": partial(from_array, read_npy(path), None, str(path), channels, None, levels)}
    content, keys = read_npz(path, lambda key: _meaning(key) is not None or bool(_UNNAMED.fullmatch(key)))
    opened = find_arrays(content, str(path), channels, levels, len(keys))
    if not opened:
        listing = check.one_line(", ".join(keys)) or "nothing"
        raise UserError(f"{path} must hold images, train_images, x_train or arr_0, got {listing}")
    return opened


def find_arrays(
    content: Mapping[str, Any],
    name: str,
    channels: int | None,
    levels: Levels | None = None,
    count: int | None = None,
) -> dict[str, Callable[[], Images]]:
    """What opens images among named arrays, by split; "all" where the names tell no splits.

    Args:
        content: Arrays by their names, which are understood as those of an .npz file.
        name: What messages call them.
        channels: As in `from_array`.
        levels: As in `from_array`.
        count: How many arrays there are with those that are not given, None for none.
    """
    parts = _by_split(content) or _in_order(content, len(content) if count is None else count)
    return {
        split: partial(from_array, part["images"], part.get("labels"), name, channels, None, levels)
        for split, part in parts.items()
    }


def _meaning(key: str) -> tuple[str, str] | None:
    """Split of an array by its name and the word for its content, such as train and x for X_train; None for others."""
    key = key.lower()
    if key in _WORDS:
        return "all", key
    first, _, second = key.partition("_")
    for split, word in ((first, second), (second, first)):
        if split in _SPLITS and word in _WORDS:
            return _SPLITS[split], word
    return None


def _by_split(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Images, and labels where there are any, of each split by the names of the arrays."""
    named = [(meaning, content[key]) for key in content if (meaning := _meaning(key))]
    found: dict[str, dict[str, Any]] = {}
    for (split, word), array in sorted(named, key=lambda item: [*_WORDS].index(item[0][1])):
        found.setdefault(split, {}).setdefault(_WORDS[word], array)
    return {split: part for split, part in found.items() if "images" in part}


def _in_order(content: Mapping[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """Images, and perhaps labels, of one part or two from arrays that have no names of their own."""
    given = [content[f"arr_{place}"] for place in range(count) if f"arr_{place}" in content]
    if len(given) != count or count not in (1, 2, 4):
        return {}
    pairs = [given[place : place + 2] for place in range(0, count, 2)]
    if any(pair[0].ndim < 3 or (len(pair) > 1 and pair[1].ndim > 2) for pair in pairs):
        return {}
    names = ("all",) if len(pairs) == 1 else ("train", "test")
    return {name: dict(zip(("images", "labels"), pair)) for name, pair in zip(names, pairs)}


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, without unpickling.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        # Copy on write: pages are read when needed and torch gets memory that it may call its own.
        return np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # damaged files fail in numpy's parser or its allocation
        reason = check.reason(error)
        raise UserError(f"{path} must be a readable array without pickled objects: {reason}") from error


def read_npz(
    path: Path, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an .npz file, without unpickling.

    Args:
        path: The file.
        wanted: Whether an array of some name is read.

    Returns:
        The arrays by name, and the names of all that are there.

    Raises:
        ValueError: It cannot be read, or is a small file that unpacks to a lot.
    """
    try:
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as file:
            assert file.zip is not None
            size = sum(member.file_size for member in file.zip.infolist())
            refuse_unpacked(size, os.fstat(stream.fileno()).st_size)
            content = {key: file[key] for key in file.files if wanted(key)}
            keys = list(file.files)
        if odd := [key for key, array in content.items() if not isinstance(array, np.ndarray)]:
            raise UserError(f"{odd[0]} is no array")
    except Exception as error:  # damaged files fail in zipfile, zlib, numpy's parser or its allocation
        reason = check.reason(error)
        raise UserError(f"{path} must be a readable array without pickled objects: {reason}") from error
    return content, keys


def as_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """An array of numbers as a tensor, in the order of bytes of this machine.

    Raises:
        ValueError: It holds something else.
    """
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise UserError(f"{name} must hold numbers of at most 64 bits, got {array.dtype}")
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def as_integers(values: np.ndarray | Tensor, count: int, what: str, name: str) -> Tensor:
    """Integers, one for each sample, as int64, shape (count,).

    Raises:
        ValueError: They are others, or not as many.
    """
    array = np.asarray(values).reshape(-1)
    if len(array) != count or array.dtype.kind not in "biu":
        raise UserError(f"{what} of {name} must be {count} integers, got {len(array)} of type {array.dtype}")
    if count and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} of {name} must be below 2**63, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def from_array(
    images: np.ndarray | Tensor,
    labels: Any = None,
    name: str = "array",
    channels: int | None = None,
    classes: list[str] | None = None,
    levels: Levels | None = None,
) -> Images:
    """Data of an array in one of the forms above.

    Args:
        images: The array.
        labels: Class of each sample, numbers or text, shape (samples,) or (samples, 1), or one-hot (samples, classes).
        name: What the data is called in reports and messages.
        channels: Channels that it must have; 1 and 3 are converted to each other; None leaves them as they are.
        classes: Names of the classes by label.
        levels: Values that become 0 and 255, as `data.levels` has them; None takes those that suit the array.

    Raises:
        ValueError: The type, the shape or the values are others, or the labels do not fit.
    """
    pixels, levels = _mapped(_channels_first(images, name), name, levels)
    if channels is not None and channels != pixels.shape[1]:
        try:
            pixels = torch.from_numpy(with_channels(pixels.numpy(), channels))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    data = from_images(pixels, name=name)
    data.levels = levels
    return with_labels(data, labels, name, classes)


def levels_of(stacks: Sequence[np.ndarray | Tensor], name: str) -> Levels:
    """The range that suits the images of several arrays, each in one of the forms above.

    Raises:
        ValueError: They differ in their channels, other than grey beside colour, or the numbers are others.
    """
    ranges, counts = Ranges(), set()
    for stack in stacks:
        pixels = _channels_first(stack, name)
        pixels = pixels.detach().cpu().numpy() if isinstance(pixels, Tensor) else pixels
        counts.add(pixels.shape[1])
        if len(counts) > 1 and counts != {1, 3}:
            listing = ", ".join(map(str, sorted(counts)))
            raise UserError(f"arrays in {name} must all have as many channels, got {listing}")
        for image in pixels:
            ranges.add(finite(storable(image))[0])
    return ranges.choose()


def with_labels(data: Images, labels: Any, name: str, classes: list[str] | None = None) -> Images:
    """The same data, given labels in any of the forms that `from_array` takes."""
    if labels is not None:
        found = numbered(listed(labels, len(data), name), classes)
        data.labels, classes = found.tensor, found.classes
        data.skipped += found.skipped(name)
    data.classes = classes
    return data


def bands_are_last(first: int, middle: int, last: int) -> bool:
    """Whether channels stand last, by the lengths of three axes: 1 and 3 are usual, images are square, bands few."""
    usual = (first in (1, 3), last in (1, 3))
    if usual[0] != usual[1]:
        return usual[1]
    if (first == middle) != (middle == last):
        return first == middle
    return last < first


def _channels_first(images: np.ndarray | Tensor, name: str) -> Tensor | np.ndarray:
    shape = tuple(images.shape)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and isinstance(images, np.ndarray) and bands_are_last(*images.shape[1:]):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or 0 in shape:
        raise UserError(f"{name} must have axes samples, height, width (and channels), got shape {shape}")
    return images


def _mapped(images: Tensor | np.ndarray, name: str, known: Levels | None) -> tuple[Tensor, Levels | None]:
    """Pixels as uint8, shape (samples, channels, height, width), and the range of values that was mapped to it."""
    if isinstance(images, Tensor):
        if images.dtype == torch.uint8:
            return images, None
        images = images.detach().cpu()
        images = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    if images.dtype == np.uint8:
        return torch.from_numpy(images if images.flags.writeable else images.copy()), None
    samples, channels, height, width = images.shape
    rows = max(1, _VALUES // (height * width))

    def parts() -> Iterator[tuple[int, NDArray[Any]]]:
        for start in range(0, samples, rows):
            part = images[start : start + rows]
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                part = np.stack([finite(image)[0] for image in part])
            yield (
                start,
                storable(rearrange(part, "samples channels height width -> channels (samples height) width")),
            )

    mapped, beyond = np.empty(images.shape, np.uint8), 0
    try:
        kind = kind_of(storable(images[:1]))
        if kind is not None and kind not in (known or {}):
            ranges = Ranges()
            for _, part in parts():
                ranges.add(part)
            known = (known or {}) | ranges.choose()
        for start, part in parts():
            pixels, clipped = to_uint8(part, known or {})
            mapped[start : start + rows] = pixels.reshape(channels, -1, height, width).swapaxes(0, 1)
            beyond += clipped
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if kind is None:
        return torch.from_numpy(mapped), None
    assert known is not None
    say(name, known, beyond / mapped.size)
    return torch.from_numpy(mapped), known


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
