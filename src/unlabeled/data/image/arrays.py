"""Images that are arrays already: tensors, numpy arrays, .npy and .npz files.

Accepted are numbers of any type, of shape (samples, height, width), (samples, height, width, channels) or (samples,
channels, height, width). A tensor of four axes is always the last of these; in numpy the channel axis is the one of
size 1 or 3, else the one beside two equal ones, else the smaller one. What is not uint8 is mapped to it by the range
of the array (see `levels`).

An .npz file holds `images` (or `image`, `x`, `data`) and perhaps `labels` (or `label`, `y`, `targets`, `target`), or
both once per split (see `data.arrays`). Arrays without names of their own are images (`arr_0`), perhaps followed by
labels (`arr_1`), then perhaps by both of the test part (`arr_2` and `arr_3`). Nothing is resized.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import by_split, read_npy, read_npz, split_and_name
from unlabeled.data.image.data import Images, from_images, with_channels
from unlabeled.data.image.levels import Levels, Ranges, finite, kind_of, say, storable, to_uint8
from unlabeled.data.labels import from_array as as_list
from unlabeled.data.labels import numbered

__all__ = ["bands_are_last", "find_arrays", "find_file", "from_array", "levels_of", "with_labels"]

_VALUES = 2**16
"""Values of a channel that are mapped at a time."""
_IMAGES = ("images", "image", "x", "data")
_LABELS = ("labels", "label", "y", "targets", "target")
_UNNAMED = tuple(f"arr_{place}" for place in range(4))


def find_file(
    path: Path, channels: int | None, levels: Levels | None = None
) -> Mapping[str, Callable[[], Images]]:
    """What opens the images of a .npy or .npz file, by split; "all" where there are no splits. As in `find_arrays`."""
    if path.suffix.lower() == ".npy":
        return {"all": partial(from_array, read_npy(path), None, str(path), channels, None, levels)}
    content, keys = read_npz(path, lambda key: split_and_name(key)[1] in (*_IMAGES, *_LABELS, *_UNNAMED))
    splits = find_arrays(content, str(path), channels, levels, len(keys))
    if not splits:
        listing = check.one_line(", ".join(keys)) or "nothing"
        raise UserError(f"{path} must hold images, train_images, x_train or arr_0, got {listing}")
    return splits


def find_arrays(
    content: Mapping[str, Any],
    name: str,
    channels: int | None,
    levels: Levels | None = None,
    count: int | None = None,
) -> dict[str, Callable[[], Images]]:
    """What opens images among arrays by the names of an .npz file, by split; "all" where the names tell no splits.

    Args:
        content: The arrays.
        name: What messages call them.
        channels: As in `from_array`.
        levels: As in `from_array`.
        count: How many arrays there are with those that are not given, None for none.
    """
    parts = {
        split: (_first(part, _IMAGES), _first(part, _LABELS)) for split, part in by_split(content).items()
    }
    parts = {split: pair for split, pair in parts.items() if pair[0] is not None}
    parts = parts or _in_order(content, len(content) if count is None else count)
    return {
        split: partial(from_array, images, labels, name, channels, None, levels)
        for split, (images, labels) in parts.items()
    }


def _first(part: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The array of the first name that there is, else None."""
    return next((part[name] for name in names if name in part), None)


def _in_order(content: Mapping[str, Any], count: int) -> dict[str, tuple[Any, Any]]:
    """Images, and perhaps labels, of one part or two from arrays that have no names of their own."""
    arrays = [content[name] for name in _UNNAMED[:count] if name in content]
    if len(arrays) != count or count not in (1, 2, 4):
        return {}
    pairs = [(arrays[0], None)] if count == 1 else list(zip(arrays[::2], arrays[1::2]))
    if any(images.ndim < 3 or (labels is not None and labels.ndim > 2) for images, labels in pairs):
        return {}
    return dict(zip(("all",) if len(pairs) == 1 else ("train", "test"), pairs))


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
    """The range that suits the images of several arrays of the forms above, all of as many channels."""
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
        numbers = numbered(as_list(labels, len(data), name), classes)
        data.labels, classes = numbers.tensor, numbers.classes
        data.skipped += numbers.skipped(name)
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


_ONE_IMAGE = 8
"""Height and width from which on an array with a last axis of 3 or 4 is one image, not grey ones that narrow."""


def _channels_first(images: np.ndarray | Tensor, name: str) -> Tensor | np.ndarray:
    shape = tuple(images.shape)
    if images.ndim == 3 and shape[2] in (3, 4) and min(shape[:2]) >= _ONE_IMAGE:
        raise UserError(
            f"{name} must have axes samples, height, width (and channels), got one image of shape {shape}"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and isinstance(images, np.ndarray) and bands_are_last(*images.shape[1:]):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or 0 in shape:
        raise UserError(f"{name} must have axes samples, height, width (and channels), got shape {shape}")
    return images


def _mapped(images: Tensor | np.ndarray, name: str, levels: Levels | None) -> tuple[Tensor, Levels | None]:
    """Pixels as uint8, shape (samples, channels, height, width), and the range of values that was mapped to it."""
    if isinstance(images, Tensor):
        if images.dtype == torch.uint8:
            return images, None
        images = images.detach().cpu()
        images = (images.float() if images.dtype == torch.bfloat16 else images).numpy()
    if images.dtype == np.uint8:
        return torch.from_numpy(images if images.flags.writeable else images.copy()), None
    try:
        kind = kind_of(storable(images[:1]))
        levels = levels or {}
        if kind is not None and kind not in levels:
            ranges = Ranges()
            for _, part in _strips(images):
                ranges.add(part)
            levels = levels | ranges.choose()
        pixels, beyond = np.empty(images.shape, np.uint8), 0
        for rows, part in _strips(images):
            values, clipped = to_uint8(part, levels)
            pixels[rows] = rearrange(values, "c (n h) w -> n c h w", h=images.shape[2])
            beyond += clipped
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    if kind is None:
        return torch.from_numpy(pixels), None
    say(name, levels, beyond / pixels.size)
    return torch.from_numpy(pixels), levels


def _strips(images: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """A few images at a time, finite and one below the other, shape (channels, samples * height, width)."""
    step = max(1, _VALUES // (images.shape[2] * images.shape[3]))
    for start in range(0, len(images), step):
        part = images[start : start + step]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            part = np.stack([finite(image)[0] for image in part])
        yield slice(start, start + step), storable(rearrange(part, "n c h w -> c (n h) w"))
