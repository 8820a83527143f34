"""Images that a program holds: lists of paths, pictures or arrays, data sets of torch and `datasets`, data frames.

A sample is an image, or an image and its label, or a mapping that holds both. Images are paths, bytes, pictures of
Pillow, or arrays as `image.arrays` takes them; arrays of one shape stay as they are, all others are stored as files
are.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS
from unlabeled.data.image import arrays
from unlabeled.data.image.data import Images
from unlabeled.data.image.libraries import table_of
from unlabeled.data.image.tables import ImageTable, images_of, table_reading
from unlabeled.data.labels import NO_LABELS, from_records, raw, refuse_column
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Reading, Source, of_paths
from unlabeled.data.tables import Table

__all__ = ["find_object"]

_ACCEPTED = (
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
        ValueError: It is none of what is accepted.
    """
    name = type(source).__name__
    if isinstance(source, Mapping) and source and all(isinstance(split, str) for split in source):
        return _by_split(source, name, label, channels)
    if type(source).__module__.startswith("datasets.") and hasattr(source, "select_columns"):
        total = len(source) if hasattr(source, "__len__") else None
        if (table := table_of(source, name, total, label)) is not None:
            return {"all": _tabled(table, name)}
    frame = _arrow(source)
    if isinstance(frame, list):  # a data frame of pictures
        return {"all": _sampled(frame, name, label, channels)}
    if frame is not None:
        return {"all": _framed(frame, name, label)}
    if isinstance(source, list | tuple) and source:
        if all(isinstance(entry, str | os.PathLike) for entry in source):
            return _at_paths(source, name, label)
    elif not _has_samples(source):
        raise UserError(f"data must be {_ACCEPTED}, got {name}")
    return {"all": _sampled(source, name, label, channels)}


def _has_samples(source: Any) -> bool:
    """Whether something else than a list gives samples by number or as a stream."""
    if (
        isinstance(source, str | bytes | list | tuple | Mapping | set)
        or type(source).__name__ == "DataLoader"
    ):
        return False
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return indexed or (hasattr(source, "__iter__") and isinstance(source, torch.utils.data.IterableDataset))


def _by_split(
    source: Mapping[str, Any], name: str, label: str | None, channels: int | None
) -> dict[str, Source | Images]:
    """Images of a dict: arrays by their names, of which labels may be lists, or anything by split."""
    arrays_held = [value for value in source.values() if isinstance(value, np.ndarray | Tensor)]
    lists = [value for value in source.values() if isinstance(value, list | tuple)]
    only_arrays = bool(arrays_held) and len(arrays_held) + len(lists) == len(source)
    if only_arrays and (splits := arrays.find_arrays(source, name, channels)):
        refuse_column(label, name)
        return {split: load() for split, load in splits.items()}
    splits = {}
    for split, part in source.items():
        parts = find_object(part, label, channels)
        if len(parts) > 1:
            raise UserError(
                f"data of the split {split} must have no splits of its own, got {', '.join(parts)}"
            )
        splits[SPLITS.get(split.lower()) or split] = next(iter(parts.values()))
    return splits


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


def _framed(frame: Any, name: str, label: str | None) -> Source:
    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        return (batch.to_pydict() for batch in frame.select(list(columns)).to_batches(max_chunksize=64))

    table = images_of(Table(Path(name), frame.schema, frame.num_rows, batches), Path(), label)
    if table is None:
        columns = check.one_line(", ".join(frame.schema.names))
        raise UserError(f"{name} must have a column of images or of their paths, got {columns}")
    return _tabled(table, name)


def _tabled(table: ImageTable, name: str) -> Source:
    return Source(name, lambda: table_reading([(name, table)], Path()), None, skipped=table.skipped)


def _at_paths(source: Sequence[Any], name: str, label: str | None) -> dict[str, Source]:
    refuse_column(label, name)
    paths = list(dict.fromkeys(os.path.abspath(os.path.expanduser(path)) for path in source))
    there = [path for path in paths if os.path.isfile(path)]
    missing = [Skipped(path, "No such file") for path in paths if not os.path.isfile(path)]
    if not there:
        raise UserError(
            f"data must be a list of paths of images, got {len(paths)} that are not there: {paths[0]}"
        )
    root = Path(os.path.commonpath([os.path.dirname(path) for path in there]))
    return of_paths(root, name, [os.path.relpath(path, root) for path in there], missing)


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


def _image_and_label(sample: Any) -> tuple[Any, Any]:
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
    image, target = _image_and_label(first)
    if not isinstance(target, Mapping):
        refuse_column(label, name)
    if isinstance(image, np.ndarray | Tensor):
        return _stacked(source, name, label, channels)
    if not isinstance(image, Image.Image | str | os.PathLike | bytes):
        raise UserError(f"samples of {name} must be images, or images and labels, got {type(image).__name__}")

    def items() -> Iterator[Item]:
        for row, sample in _samples(source):
            image, target = _image_and_label(sample)
            content = sample.reason if isinstance(sample, Skipped) else _content(image)
            yield Item(_path_of(source, row) or f"{name}[{row}]", raw(target), content)

    total = len(source) if hasattr(source, "__len__") else None
    return Source(name, lambda: Reading(_classes(source), total, items()), None, label=label)


def _path_of(source: Any, row: int) -> str | None:
    """Path of a sample, as data sets of torchvision list them."""
    samples = getattr(source, "samples", None)
    is_listed = isinstance(samples, list) and row < len(samples) and isinstance(samples[row][0], str)
    return samples[row][0] if isinstance(samples, list) and is_listed else None


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
        image, target = _image_and_label(sample)
        if isinstance(sample, Skipped) or not isinstance(image, np.ndarray | Tensor):
            reason = sample.reason if isinstance(sample, Skipped) else f"a {type(image).__name__} is no array"
            skipped.append(Skipped(f"{name}[{row}]", reason))
            continue
        images.append(image)
        labels.append(raw(target))
    values, notes = from_records(labels, label, name)
    if len({(tuple(image.shape), str(image.dtype), isinstance(image, Tensor)) for image in images}) == 1:
        data = arrays.from_array(_stack(images, name), None, name, channels)
    else:
        data = _of_sizes([_stack([image], name) for image in images], name, channels)
    given = any(value is not None for value in values)
    data = arrays.with_labels(data, values if given else None, name, _classes(source))
    data.skipped += skipped + [Skipped(name, NO_LABELS + text) for text in notes]
    return data


def _stack(images: list[Any], name: str) -> Any:
    """Arrays of one shape and type as one with a further first axis."""
    if images[0].ndim not in (2, 3):
        shape = tuple(images[0].shape)
        raise UserError(f"arrays in {name} must have axes height, width and channels, got shape {shape}")
    if not isinstance(images[0], Tensor):
        return np.stack(images)
    stacked = torch.stack([image.detach().cpu() for image in images])
    return stacked[:, None] if stacked.ndim == 3 else stacked


def _of_sizes(stacks: list[Any], name: str, channels: int | None) -> Images:
    """Data of images that differ in size, each a stack of one; grey ones beside those of colour become colour."""
    levels = arrays.levels_of(stacks, name)
    images = [arrays.from_array(stack, None, name, channels, None, levels) for stack in stacks]
    counts = {image.channels for image in images}
    if counts == {1, 3}:
        return _of_sizes(stacks, name, 3)
    data = Images(
        torch.cat([image.pixels for image in images]),
        torch.cat([image.sizes for image in images]),
        channels=counts.pop(),
        name=name,
        paths=[f"{name}[{row}]" for row in range(len(images))],
    )
    data.levels = levels or None
    return data
