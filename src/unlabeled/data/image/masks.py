"""Masks of classes in image files: palettes, grey levels or colours as class numbers.

Values are the classes in the order of the names that a file such as classes.json lists; without one, each value that
occurs is a class. 255 and the colour white beside others are void, where nobody knows the class; but where masks hold
only 0 and 255, 255 is the class 1.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.faults import Faults
from unlabeled.data.notes import note
from unlabeled.progress import watched

__all__ = ["VOID", "Masks", "read_masks"]

VOID = 255
"""Class number of pixels whose class nobody knows."""
_LISTED = 256
"""Values below this, grey levels and palettes, have their classes in a list."""
_COLOUR = 2**24
"""Added to colours, so that they differ from grey levels."""
_WHITE = _COLOUR + 0xFFFFFF


class Masks:
    """Masks of images, read when they are asked for.

    Args:
        paths: File of each mask, by path of its image.
        numbers: Class of each value.
        classes: Names of the classes.
        values: Values in each mask, by path of its image.
        sizes: Height and width of each mask in pixels, by path of its image.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        numbers: Mapping[int, int],
        classes: list[str],
        values: Mapping[str, frozenset[int]],
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        self.paths, self.numbers, self.classes, self.values = paths, numbers, classes, values
        self.sizes = sizes

    def __getitem__(self, image: str) -> Tensor:
        """Class of each pixel, 255 where it is void, uint8, shape (height, width)."""
        values = _values(self.paths[image])
        if values.min() >= 0 and values.max() < _LISTED:
            return torch.from_numpy(self._by_value[values])
        values, inverse = np.unique(values, return_inverse=True)
        numbers = np.array([self.numbers.get(value, VOID) for value in values.tolist()], np.uint8)
        return torch.from_numpy(numbers[inverse])

    @cached_property
    def _by_value(self) -> np.ndarray:
        """Class of each small value, uint8: a look-up takes a tenth of the time of sorting all pixels."""
        return np.array([self.numbers.get(value, VOID) for value in range(_LISTED)], np.uint8)

    def present(self, image: str) -> set[int]:
        """Classes of which there is a pixel."""
        return {self.numbers[value] for value in self.values[image] if value in self.numbers}


def read_masks(paths: Mapping[str, Path], names: Sequence[str] | None, faults: Faults) -> Masks:
    """Look at all masks: which can be read, which values they hold, and what the classes are.

    Args:
        paths: File of each mask, by path of its image.
        names: Names of the classes in the order of their values; None where no file lists them.
        faults: Where what is wrong is recorded.
    """
    values: dict[str, frozenset[int]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for image in watched(paths, len(paths), "reading masks", "masks"):
        try:
            mask = _values(paths[image])
        except Exception as error:  # Pillow raises anything on bytes that it did not expect
            faults.add("masks that cannot be read", paths[image].name, check.reason(error))
            continue
        values[image], sizes[image] = frozenset(np.unique(mask).tolist()), (mask.shape[0], mask.shape[1])
    numbers, classes = _classes({value for own in values.values() for value in own}, names)
    for image, own in values.items():
        if unknown := sorted(own - numbers.keys() - {VOID, _WHITE}):
            listing = ", ".join(map(_named, unknown[:3]))
            faults.add("masks with values of no class, read as void", paths[image].name, listing)
    return Masks({image: paths[image] for image in values}, numbers, classes, values, sizes)


def _values(path: Path) -> np.ndarray:
    """Values of a mask: the numbers of palettes and grey levels, colours as one number, shape (height, width)."""
    with Image.open(path) as image:
        if image.mode in ("P", "L", "1") or image.mode.startswith("I"):
            return np.asarray(image).astype(np.int64)
        colours = np.asarray(image.convert("RGB")).astype(np.int64)
    return _COLOUR + (colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2])


def _classes(values: set[int], names: Sequence[str] | None) -> tuple[dict[int, int], list[str]]:
    """Class of each value, and names of the classes."""
    greys = {value: _grey(value) for value in values}
    if None not in greys.values():
        plain = {grey for grey in greys.values() if grey is not None}
        numbers, classes = _classes_of_greys(plain, names)
        return {value: numbers[grey] for value, grey in greys.items() if grey in numbers}, classes
    return _in_order(values - {VOID, _WHITE}, names)


def _grey(value: int) -> int | None:
    """The grey level of a value; None for a colour."""
    if value < _COLOUR:
        return value
    level = value & 255
    return level if value == _COLOUR + 0x010101 * level else None


def _classes_of_greys(values: set[int], names: Sequence[str] | None) -> tuple[dict[int, int], list[str]]:
    if values == {0, VOID}:
        note("masks hold 0 and 255 only, so 255 is class 1, not void")
        return {0: 0, VOID: 1}, [*names] if names and len(names) == 2 else ["0", "1"]
    if names is not None:
        return {number: number for number in range(len(names))}, [*names]
    return _in_order(values - {VOID}, None)


def _in_order(values: set[int], names: Sequence[str] | None) -> tuple[dict[int, int], list[str]]:
    """Values as classes in their order, named so if there are as many names."""
    if len(values) > VOID:
        raise UserError(f"masks must have at most {VOID} classes, got {len(values)} values")
    known = sorted(values)
    fits = names is not None and len(names) == len(known)
    return {value: place for place, value in enumerate(known)}, [*names] if names and fits else [
        *map(_named, known)
    ]


def _named(value: int) -> str:
    return str(value) if value < _COLOUR else f"#{value - _COLOUR:06x}"
