"""Images with the boxes or the masks of what is in them.

Boxes are in pixels of the original image, whatever size it is stored at: edges lie between pixels, so a box around the
first pixel is 0, 0, 1, 1. They move with resizing as the image does (a JPEG that is decoded at a fraction of its size
may lie off by less than a pixel of that).
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.faults import Faults
from unlabeled.data.files import walk
from unlabeled.data.image.boxes import Boxes, BoxFile, class_names, read_boxes
from unlabeled.data.image.data import Images
from unlabeled.data.image.decode import SUFFIXES, window
from unlabeled.data.image.layouts import is_instances, mask_pairs, separate_masks
from unlabeled.data.image.masks import VOID, Masks, read_masks
from unlabeled.data.labels import class_name, in_order
from unlabeled.data.notes import note
from unlabeled.data.samples import Skipped

__all__ = ["VOID", "AnnotatedImages", "AnnotationKind", "Annotations", "NoAnnotations", "Things", "checked"]

AnnotationKind = Literal["boxes", "masks"]
_EXPECTED = {
    "boxes": "VOC xml, COCO json, YOLO txt or a column objects",
    "masks": "SegmentationClass of VOC, or folders such as images and masks with files of the same names",
}
_ROUNDING = 0.5
"""Pixels by which rounded edges may lie outside without a word."""


class NoAnnotations(UserError):
    """There are no annotations of the kind that was asked for."""


class Things(NamedTuple):
    """The things in one image.

    Attributes:
        boxes: Left, top, right and bottom edges in pixels of the original image, float64, shape (things, 4).
        labels: Their classes, int64, shape (things,).
        difficult: Which are too hard or too many to be counted, bool, shape (things,).
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor


class AnnotatedImages(Images):
    """Images with boxes or masks; like labels these are for evaluation and never in a batch.

    Args:
        images: The images.
        originals: Height and width in pixels of the original images, int64, shape (samples, 2).
        classes: Names of the classes.
        things: Boxes of each image; None where there are masks.
        masks: Masks by the paths of their images; None where there are boxes.
        keys: Path of each image by which `masks` know it.
    """

    def __init__(
        self,
        images: Images,
        originals: Tensor,
        classes: list[str],
        *,
        things: Sequence[Things] | None = None,
        masks: Masks | None = None,
        keys: Sequence[str] = (),
    ) -> None:
        self.__dict__ |= images.__dict__ | {"_digests": None}
        self.originals, self.things, self.masks, self.keys = originals, things, masks, list(keys)
        self.classes, self.labels = classes, None

    def _keep(self, rows: Tensor) -> None:
        super()._keep(rows)
        self.originals = self.originals[rows]
        self.things = None if self.things is None else [self.things[row] for row in rows.tolist()]
        self.keys = [self.keys[row] for row in rows.tolist()] if self.keys else []

    def present(self) -> Tensor:
        """Classes of each image: 1 present, 0 absent, -1 all difficult; int64, shape (samples, classes)."""
        present = torch.zeros(len(self), len(self.classes or ()), dtype=torch.int64)
        for row, own in enumerate(present):
            if self.masks is not None:
                own[[*self.masks.present(self.keys[row])]] = 1
            elif self.things is not None:
                things = self.things[row]
                own[things.labels[things.difficult]] = -1
                own[things.labels[~things.difficult]] = 1
        return present

    def to_stored(self, row: int, boxes: Tensor) -> Tensor:
        """Boxes in pixels of the original image as pixels of the stored one, float64, shape (boxes, 4)."""
        offset, scale = self._geometry(row)
        return (boxes.double() - offset) * scale

    def to_original(self, row: int, boxes: Tensor) -> Tensor:
        """Boxes in pixels of the stored image as pixels of the original one, float64, shape (boxes, 4)."""
        offset, scale = self._geometry(row)
        return boxes.double().cpu() / scale + offset

    def _geometry(self, row: int) -> tuple[Tensor, Tensor]:
        """Where the stored part of an image begins, and stored pixels for each of its own; for all four edges."""
        top, left, height, width = window(*self.originals[row].tolist())
        stored = self.sizes[row].tolist()
        scale = [stored[1] / width, stored[0] / height]
        return torch.tensor([left, top] * 2, dtype=torch.double), torch.tensor(scale * 2, dtype=torch.double)

    def mask(self, row: int, *, stored: bool = False) -> Tensor:
        """Class of each pixel, `VOID` where unknown, uint8, shape (height, width).

        Args:
            row: The image.
            stored: Whether at the size of the stored image, by its nearest pixels; else at that of the original.
        """
        assert self.masks is not None
        mask = self.masks[self.keys[row]]
        if not stored:
            return mask
        top, left, height, width = window(*mask.shape)
        part = mask[top : top + height, left : left + width]
        return F.interpolate(part[None, None], self.sizes[row].tolist(), mode="nearest-exact")[0, 0]


class Annotations:
    """Boxes or masks of the images below a folder, read once for all of its splits.

    Args:
        path: Folder or file as the user named it.
        kind: What is looked for.
    """

    def __init__(self, path: Path, kind: AnnotationKind) -> None:
        self.path, self.kind = path, kind
        self.faults = Faults()
        """What is wrong with files as a whole."""

    @cached_property
    def boxes(self) -> Boxes | None:
        """Boxes of all images; None where there are none."""
        below = walk(self.path)
        images, _ = separate_masks([file for file in below.files if file.ends(SUFFIXES)])
        return read_boxes(below.root, below.files, [file.path for file in images], self.faults)

    @cached_property
    def masks(self) -> Masks | None:
        """Masks of all images; None where there are none."""
        below = walk(self.path)
        pairs = mask_pairs([file.path for file in below.files if file.ends(SUFFIXES)])
        paths = {image: below.root / mask for mask, image in pairs.items() if not is_instances(mask)}
        return read_masks(paths, class_names(below.root, below.files), self.faults) if paths else None

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes of all splits."""
        if self.kind == "masks":
            return self.masks.classes if self.masks else []
        if self.boxes is None or self.boxes.classes:
            return self.boxes.classes or [] if self.boxes else []
        names = {box.name for one in self.boxes.images.values() for box in one.boxes} - {None}
        return in_order(class_name(str(name)) for name in names)

    def of(self, images: Images, originals: Tensor) -> AnnotatedImages:
        """Images with their annotations, without those that have none; what is skipped is said in one line.

        Args:
            images: One split.
            originals: As in `AnnotatedImages`.

        Raises:
            ValueError: No image has any.
        """
        root = os.path.join(self.path if self.path.is_dir() else self.path.parent, "")
        keys = [path.removeprefix(root) for path in images.paths]
        faults = Faults()
        things = self._things(keys, originals, faults) if self.kind == "boxes" else {}
        matches = {*things} if self.kind == "boxes" else self._fitting(keys, originals, faults)
        rows = torch.tensor([key in matches for key in keys])
        if not rows.any():
            expected = f"{self.kind} ({_EXPECTED[self.kind]})"
            reasons = "".join(f": {one}" for one in (self.faults, faults) if one.counts)
            raise NoAnnotations(f"data must have {expected}, got {images.name} without{reasons}")
        data, originals = images.subset(rows), originals[rows]
        keys = [key for key in keys if key in matches]
        data.skipped += [
            Skipped(path, f"no {self.kind}")
            for path, has_any in zip(images.paths, rows.tolist())
            if not has_any
        ]
        if left := len(images) - len(data):
            note(f"{images.name}: {left:,} of {len(images):,} images have no {self.kind} and are skipped")
        self.faults.tell(images.name)
        faults.tell(images.name)
        where = f"of {len(self.classes)} classes in {len(data):,} images"
        if not things:
            note(f"{images.name}: masks {where}")
            return AnnotatedImages(data, originals, self.classes, masks=self.masks, keys=keys)
        of_each = [things[key] for key in keys]
        boxes = sum(len(one.labels) for one in of_each)
        difficult = sum(int(one.difficult.sum()) for one in of_each)
        layout = self.boxes.layout if self.boxes else ""
        note(f"{images.name}: {boxes:,} boxes {where}, {difficult:,} of them difficult, from {layout}")
        return AnnotatedImages(data, originals, self.classes, things=of_each)

    def _things(self, keys: Sequence[str], originals: Tensor, faults: Faults) -> dict[str, Things]:
        index = {name: number for number, name in enumerate(self.classes)}
        images = self.boxes.images if self.boxes else {}
        sizes = {key: (height, width) for key, (height, width) in zip(keys, originals.tolist())}
        return {
            key: things
            for key in keys
            if key in images and (things := checked(images[key], sizes[key], index, key, faults)) is not None
        }

    def _fitting(self, keys: Sequence[str], originals: Tensor, faults: Faults) -> set[str]:
        """Images that have a mask of their own size."""
        matches = set()
        for key, (height, width) in zip(keys, originals.tolist()):
            if self.masks is None or key not in self.masks.sizes:
                continue
            if (size := self.masks.sizes[key]) != (height, width):
                got = f"{size[1]}x{size[0]}, the image {width}x{height}"
                faults.add("masks of another size than their image", self.masks.paths[key].name, got)
            else:
                matches.add(key)
        return matches


def checked(
    file: BoxFile, size: tuple[int, int], index: Mapping[str, int], place: str, faults: Faults
) -> Things | None:
    """The boxes of an image that are whole, those across its border cut off there.

    Args:
        file: What a file says of it.
        size: Height and width of the image in pixels.
        index: Numbers of the classes by name.
        place: What messages call the image.
        faults: Where the others are recorded.

    Returns:
        The things; None where the file states another size than that of the image.
    """
    if file.size is not None and file.size != size:
        got = f"{file.size[1]}x{file.size[0]}, the image {size[1]}x{size[0]}"
        faults.add("images whose boxes are stated for another size", place, got)
        return None
    boxes: list[tuple[list[float], int, bool]] = []
    limits = [size[1], size[0]] * 2
    for box in file.boxes:
        edges = [edge * limit if file.fractions else edge for edge, limit in zip(box.edges, limits)]
        number = _class_number(box.name, index)
        inside = [min(max(edge, 0.0), float(limit)) for edge, limit in zip(edges, limits)]
        if number is None:
            faults.add("boxes of an unknown class", place, box.instead if box.name is None else str(box.name))
        elif not all(map(math.isfinite, edges)):
            faults.add("boxes with edges that are no numbers", place)
        elif edges[0] >= edges[2] or edges[1] >= edges[3]:
            faults.add("boxes without area", place)
        elif inside[0] >= inside[2] or inside[1] >= inside[3]:
            faults.add("boxes outside their image", place)
        else:
            if max(abs(edge - other) for edge, other in zip(edges, inside)) > _ROUNDING:
                faults.add("boxes cut off at the border of their image", place)
            boxes.append((inside, number, box.difficult))
    return Things(
        torch.tensor([edges for edges, _, _ in boxes], dtype=torch.double).view(-1, 4),
        torch.tensor([number for _, number, _ in boxes], dtype=torch.int64),
        torch.tensor([difficult for _, _, difficult in boxes], dtype=torch.bool),
    )


def _class_number(name: str | int | None, index: Mapping[str, int]) -> int | None:
    """Number of a class that is given by name, or by its number in their order."""
    if isinstance(name, int) and str(name) not in index:
        return name if 0 <= name < len(index) else None
    return None if name is None else index.get(class_name(str(name)))
