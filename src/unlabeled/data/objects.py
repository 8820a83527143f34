"""Images that a program holds: lists of paths, pictures or arrays, data sets of torch and `datasets`, data frames.

A sample is an image, or an image and its label, or a mapping that holds both. Images are paths, bytes, pictures of
Pillow, or arrays as `arrays` takes them; arrays of one shape are kept as they are, all others are stored as files are.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS
from unlabeled.data.image import arrays
from unlabeled.data.image.data import Images
from unlabeled.data.image.tables import images_of
from unlabeled.data.labels import NoColumn, from_records, raw
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Reading, Source, find_rows, of_paths, table_reading
from unlabeled.data.tables import Table

__all__ = ["ACCEPTED", "find_object"]

ACCEPTED = (
    "a path, a name, an array, a list of paths, of Pillow images or of arrays, a data set with a length and items or "
    "of `datasets`, a data frame, a dict of these by split, or Data"
)
_IMAGES = ("image", "img", "pixel_values", "picture", "photo", "jpg", "png", "x", "file_name", "path")


def find_object(source: Any, label: str | None, channels: int | None) -> Mapping[str, Source | Images]:
    """Images of an object by split; "all" where there are no splits.

    Args:
        source: The object.
        label: Column of labels that the user asked for.
        channels: 1 or 3 to convert arrays to; None leaves them as they are.

    Raises:
        ValueError: It is nothing of `ACCEPTED`.
    """
    name = type(source).__name__
    if isinstance(source, Mapping) and source and all(isinstance(split, str) for split in source):
        if _holds_arrays(source) and (found := arrays.find_arrays(source, name, channels)):
            _refuse(label, name)
            return {split: load() for split, load in found.items()}
        return {
            SPLITS.get(split.lower()) or split: _only(find_object(part, label, channels), split)
            for split, part in source.items()
        }
    if type(source).__module__.startswith("datasets.") and hasattr(source, "select_columns"):
        total = len(source) if hasattr(source, "__len__") else None
        try:
            find_rows(source, name, name, total, label)
        except ValueError:
            if label is not None:
                raise
        else:
            return {"all": Source(name, lambda: find_rows(source, name, name, total, label), None)}
    frame = _arrow(source)
    if isinstance(frame, list):  # a data frame of pictures
        return {"all": _sampled(frame, name, label, channels)}
    if frame is not None:
        return _framed(frame, name, label)
    if (
        isinstance(source, list | tuple)
        and source
        and all(isinstance(entry, str | os.PathLike) for entry in source)
    ):
        return _paths(source, name, label)
    if not _has_samples(source):
        raise UserError(f"data must be {ACCEPTED}, got {name}")
    return {"all": _sampled(source, name, label, channels)}


def _holds_arrays(source: Mapping[str, Any]) -> bool:
    """Whether a dict is one of arrays, of which labels may be lists."""
    arrays_in = [values for values in source.values() if isinstance(values, np.ndarray | Tensor)]
    lists_in = [values for values in source.values() if isinstance(values, list | tuple)]
    return bool(arrays_in) and len(arrays_in) + len(lists_in) == len(source)


def _only(parts: Mapping[str, Source | Images], split: str) -> Source | Images:
    if len(parts) > 1:
        raise UserError(f"data of the split {split} must have no splits of its own, got {', '.join(parts)}")
    return next(iter(parts.values()))


def _has_samples(source: Any) -> bool:
    if isinstance(source, str | bytes | Mapping | set) or type(source).__name__ == "DataLoader":
        return False
    if isinstance(source, list | tuple):
        return len(source) > 0
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return indexed or (hasattr(source, "__iter__") and isinstance(source, torch.utils.data.IterableDataset))


def _arrow(source: Any) -> Any:
    """A data frame of pandas or polars as a table of pyarrow, as a list of rows where that cannot be; else None."""
    module = type(source).__module__.partition(".")[0]
    if module not in ("pandas", "polars", "pyarrow") or not hasattr(source, "columns"):
        return None
    import pyarrow as pa

    if module != "pandas":
        return source.to_arrow() if module == "polars" else source
    try:
        return pa.Table.from_pandas(source, preserve_index=False)
    except pa.ArrowException:
        return source.to_dict("records")


def _framed(frame: Any, name: str, label: str | None) -> dict[str, Source]:
    def batches(columns: Any) -> Iterator[dict[str, list[Any]]]:
        for batch in frame.select(list(columns)).to_batches(max_chunksize=64):
            yield batch.to_pydict()

    table = images_of(Table(Path(name), frame.schema, frame.num_rows, batches), Path(), label)
    if table is None:
        columns = check.one_line(", ".join(frame.schema.names))
        raise UserError(f"{name} must have a column of images or of their paths, got {columns}")
    return {"all": Source(name, lambda: table_reading([(name, table)], Path()), None, skipped=table.skipped)}


def _paths(source: Any, name: str, label: str | None) -> dict[str, Source]:
    _refuse(label, name)
    places = list(dict.fromkeys(os.path.abspath(os.path.expanduser(path)) for path in source))
    there = [place for place in places if os.path.isfile(place)]
    missing = [Skipped(place, "No such file") for place in places if not os.path.isfile(place)]
    if not there:
        raise UserError(
            f"data must be a list of paths of images, got {len(places)} that are not there: {places[0]}"
        )
    root = Path(os.path.commonpath([os.path.dirname(place) for place in there]))
    return of_paths(root, name, [os.path.relpath(place, root) for place in there], missing)


def _refuse(label: str | None, name: str) -> None:
    if label is not None:
        raise NoColumn(f"label must be left out for {name}, which has no columns, got {label}")


def _samples(source: Any) -> Iterator[tuple[int, Any]]:
    """Each sample by its number, or the reason why there is none, as a `Skipped`."""
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        yield from enumerate(source)
        return
    for row in range(len(source)):
        try:
            yield row, source[row]
        except Exception as error:  # a data set of somebody else's may raise anything
            yield row, Skipped("", check.reason(error))


def _parted(sample: Any) -> tuple[Any, Any]:
    """The image and the label, or a record that the label is found in, of a sample."""
    if isinstance(sample, Mapping):
        keys = [key for key in _IMAGES if key in sample] + [key for key in sample if _is_image(sample[key])]
        if not keys:
            return sample, None
        return sample[keys[0]], {key: value for key, value in sample.items() if key != keys[0]}
    if isinstance(sample, tuple | list):
        return (sample[0], sample[1] if len(sample) > 1 else None) if len(sample) else (sample, None)
    return sample, None


def _is_image(value: Any) -> bool:
    return isinstance(value, Image.Image | np.ndarray | Tensor | bytes) and getattr(value, "ndim", 2) > 1


def _sampled(source: Any, name: str, label: str | None, channels: int | None) -> Source | Images:
    first = next((sample for _, sample in _samples(source) if not isinstance(sample, Skipped)), None)
    if first is None:
        reason = next((sample.reason for _, sample in _samples(source)), "it is empty")
        raise UserError(f"no images in {name}: {reason}")
    image, known = _parted(first)
    if not isinstance(known, Mapping):
        _refuse(label, name)
    if isinstance(image, np.ndarray | Tensor):
        return _stacked(source, name, label, channels)
    if not isinstance(image, Image.Image | str | os.PathLike | bytes):
        raise UserError(f"samples of {name} must be images, or images and labels, got {type(image).__name__}")

    def items() -> Iterator[Item]:
        paths = getattr(source, "samples", None)
        for row, sample in _samples(source):
            image, known = _parted(sample)
            content = sample.reason if isinstance(sample, Skipped) else _content(image)
            named = isinstance(paths, list) and row < len(paths) and isinstance(paths[row][0], str)
            path = paths[row][0] if isinstance(paths, list) and named else f"{name}[{row}]"
            yield Item(path, raw(known), content)

    total = len(source) if hasattr(source, "__len__") else None
    return Source(name, lambda: Reading(_classes(source), total, items()), None, label=label)


def _content(image: Any) -> Any:
    if isinstance(image, str | os.PathLike):
        return Path(image)
    return image if isinstance(image, Image.Image | bytes) else f"a {type(image).__name__} is no image"


def _classes(source: Any) -> list[str] | None:
    """Names of the classes of a data set, also of one of which this is a part."""
    while not hasattr(source, "classes") and hasattr(source, "dataset"):
        source = source.dataset
    names = getattr(source, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else None


def _stacked(source: Any, name: str, label: str | None, channels: int | None) -> Images:
    """Images that are arrays: as one array where all have the same shape, else each brought to the commonest number."""
    images, labels, skipped = [], [], []
    for row, sample in _samples(source):
        image, known = _parted(sample)
        if isinstance(sample, Skipped) or not isinstance(image, np.ndarray | Tensor):
            reason = sample.reason if isinstance(sample, Skipped) else f"a {type(image).__name__} is no array"
            skipped.append(Skipped(f"{name}[{row}]", reason))
            continue
        images.append(image)
        labels.append(raw(known))
    values, said = from_records(labels, label, name)
    known = None if all(value is None for value in values) else values
    whole = _one_array(images, name)
    data = arrays.from_array(whole, known, name, channels, _classes(source)) if whole is not None else None
    if data is None:
        data = _of_sizes([_one_array([image], name) for image in images], name, channels)
        data = arrays.with_labels(data, known, name, _classes(source))
    data.skipped += skipped + [Skipped(name, f"no labels: {text}") for text in said]
    return data


def _one_array(images: list[Any], name: str) -> Any:
    """Arrays of one shape and type as one with a further first axis; None where they differ."""
    shapes = {(tuple(image.shape), str(image.dtype), isinstance(image, Tensor)) for image in images}
    if len(shapes) > 1:
        return None
    if images[0].ndim not in (2, 3):
        raise UserError(
            f"arrays in {name} must have axes height, width and channels, got shape {shapes.pop()[0]}"
        )
    if not isinstance(images[0], Tensor):
        return np.stack(images)
    stacked = torch.stack([image.detach().cpu() for image in images])
    return rearrange(stacked, "n h w -> n 1 h w") if stacked.ndim == 3 else stacked


def _of_sizes(stacks: list[Any], name: str, asked: int | None) -> Images:
    """Data of images that differ in size, each a stack of one; grey ones beside those of colour become colour."""
    levels = arrays.levels_of(stacks, name)
    images = [arrays.from_array(stack, None, name, asked, None, levels) for stack in stacks]
    channels = {image.channels for image in images}
    if channels == {1, 3}:
        return _of_sizes(stacks, name, 3)
    data = Images(
        torch.cat([image.pixels for image in images]),
        torch.cat([image.sizes for image in images]),
        channels=channels.pop(),
        name=name,
        paths=[f"{name}[{row}]" for row in range(len(images))],
    )
    data.levels = levels or None
    return data
