"""Images of data sets of other libraries: `datasets`, the Hugging Face hub and torchvision."""

import inspect
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS, walk
from unlabeled.data.labels import label_column, raw
from unlabeled.data.notes import note
from unlabeled.data.samples import Item
from unlabeled.data.sources import Reading, Source, open_hub

__all__ = ["find_hub", "find_rows", "find_torchvision"]


def find_hub(address: str, label: str | None = None) -> dict[str, Source]:
    """Sources by split of a data set on the Hugging Face hub, read as a stream.

    Args:
        address: OWNER/NAME or OWNER/NAME:CONFIG.
        label: Column of labels; None looks for a usual name.

    Raises:
        ValueError: The data set cannot be opened.
    """
    builder, splits = open_hub(address)
    sizes = {split: about.num_examples for split, about in (builder.info.splits or {}).items()}
    return {
        SPLITS.get(split, split): Source(
            address,
            lambda split=split: find_rows(splits[split], address, split, sizes.get(split), label),
            ["hub", address, split, builder.hash, label],
        )
        for split in splits
    }


def find_rows(rows: Any, name: str, file: str, total: int | None, label: str | None) -> Reading:
    """Images of a `datasets.Dataset` or `datasets.IterableDataset`.

    Args:
        rows: The data set.
        name: What messages call it.
        file: What its rows are called where they have no name.
        total: Number of its rows, None where that is unknown.
        label: Column of labels; None looks for a usual name.

    Raises:
        ValueError: It has no column of images, or not that of labels.
    """
    from datasets import ClassLabel, Image, Value

    features = rows.features or _features_of_first(rows)

    def holds_images(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return isinstance(feature, Image) or encoded or feature in (Value("binary"), Value("large_binary"))

    images = [column for column, feature in features.items() if holds_images(feature)]
    if not images:
        raise UserError(f"{name} must have a column of images, got {check.one_line(', '.join(features))}")
    image = next((column for column in images if isinstance(features[column], Image)), images[0])
    simple = [column for column, feature in features.items() if isinstance(feature, ClassLabel | Value)]
    named = [column for column in simple if isinstance(features[column], ClassLabel)]
    column = label_column(features if label else simple, label, name) or next(iter(named), None)
    column = column or label_column([other for other in features if other not in images])
    if isinstance(features[image], Image):
        rows = rows.cast_column(image, Image(decode=False))
    if (getattr(rows, "format", None) or {}).get("type") == "custom":
        note(f"{name}: its images are read as they are stored, without the transform that it was given")
    rows = rows.with_format(None).select_columns([image, column] if column else [image])

    def items() -> Iterator[Item]:
        batches = (batch for batch in rows.iter(64))
        pairs = (pair for batch in batches for pair in zip(batch[image], batch[column or image]))
        for number, (value, known) in enumerate(pairs):
            value = value if isinstance(value, dict) else {"bytes": value}
            path, content = value.get("path"), value.get("bytes")
            if content is None:
                content = Path(path) if path else b""
            yield Item(path or f"{file}#{number}", raw(known) if column else None, content)

    return Reading(features[column].names if column in named else None, total, items())


def _features_of_first(rows: Any) -> Mapping[str, Any]:
    """Types of the columns of a stream that does not say them, as its first rows have them."""
    import pyarrow as pa
    from datasets import Features

    first = next(iter(rows.with_format(None).iter(batch_size=5)))
    return Features.from_arrow_schema(pa.Table.from_pydict(first).schema)


def find_torchvision(address: str) -> dict[str, tuple[Any, Source]]:
    """Data sets of torchvision that lie on this machine, with their sources, by split.

    Args:
        address: NAME or NAME:ROOT, such as CIFAR10:downloads; the root is `data` where none is given.

    Raises:
        ValueError: torchvision has no such data set, or it is not below the root.
    """
    from torchvision import datasets

    name, _, root = address.partition(":")
    root = root or "data"
    if name not in datasets.__all__ or "root" not in inspect.signature(getattr(datasets, name)).parameters:
        near = get_close_matches(name, datasets.__all__, 1, 0.0)[0]
        raise UserError(f"torchvision has no data set {name}; the nearest name is {near}")
    kind = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    options: dict[str, dict[str, Any]] = {"all": {}}
    if "train" in parameters:
        options = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        options = {"train": {"split": "train"}, "test": {"split": "test"}, "validation": {"split": "val"}}
    found, reason = {}, ""
    for split, option in options.items():
        try:
            found[split] = kind(root, **option)
        except Exception as error:  # each data set refuses a missing folder or split in its own way
            reason = reason or str(error)
    if not found:
        raise UserError(f"torchvision:{name} must lie below {root}: {reason}")
    place = [os.path.realpath(root), walk(Path(root)).files]
    return {
        split: (
            dataset,
            Source(name, lambda d=dataset: _reading(d, name), ["torchvision", name, split, place]),
        )
        for split, dataset in found.items()
    }


def _reading(dataset: Any, name: str) -> Reading:
    if hasattr(dataset, "samples"):
        items = (Item(path, int(label), Path(path)) for path, label in dataset.samples)
    else:
        samples = ((row, dataset[row]) for row in range(len(dataset)))
        items = (Item(f"{name}[{row}]", raw(label), image) for row, (image, label, *_) in samples)
    classes = getattr(dataset, "classes", None)
    return Reading(classes and [str(name) for name in classes], len(dataset), items)
