"""Images of data sets of other libraries: `datasets`, the Hugging Face hub and torchvision."""

import inspect
import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS, walk
from unlabeled.data.image.tables import ImageTable, images_of, table_reading
from unlabeled.data.labels import raw
from unlabeled.data.notes import note
from unlabeled.data.samples import Item
from unlabeled.data.sources import Reading, Source, open_hub
from unlabeled.data.tables import Table

__all__ = ["find_hub", "find_torchvision", "table_of"]


def find_hub(address: str, label: str | None = None) -> dict[str, Source]:
    """Sources by split of a data set on the Hugging Face hub, OWNER/NAME or OWNER/NAME:CONFIG, read as a stream."""
    builder, splits = open_hub(address)
    sizes = {split: about.num_examples for split, about in (builder.info.splits or {}).items()}

    def read(split: str) -> Reading:
        table = table_of(splits[split], address, sizes.get(split), label)
        if table is None:
            columns = check.one_line(", ".join(splits[split].features or ()))
            raise UserError(f"{address} must have a column of images, got {columns}")
        return table_reading([(split, table)], Path())

    return {
        SPLITS.get(split, split): Source(
            address, partial(read, split), ["hub", address, split, builder.hash, label]
        )
        for split in splits
    }


def table_of(rows: Any, name: str, total: int | None, label: str | None) -> ImageTable | None:
    """A `datasets.Dataset` or `datasets.IterableDataset` as by `images_of`; `total` is its length, None if unknown."""
    from datasets import Image

    features = rows.features or _features_of_first(rows)
    for column, feature in features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
    if (getattr(rows, "format", None) or {}).get("type") == "custom":
        note(f"{name}: its images are read as stored, without its transform")
    rows = rows.with_format(None)

    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        return iter(rows.select_columns(list(columns)).iter(64))

    return images_of(Table(Path(name), features.arrow_schema, total, batches), Path(), label)


def _features_of_first(rows: Any) -> Any:
    """Types of the columns of a stream that does not say them, as its first rows have them."""
    import pyarrow as pa
    from datasets import Features

    first = next(iter(rows.with_format(None).iter(batch_size=5)))
    return Features.from_arrow_schema(pa.Table.from_pydict(first).schema)


def find_torchvision(address: str) -> dict[str, tuple[Any, Source]]:
    """Data sets of torchvision that are on this machine, with their sources, by split.

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
    sets, reason = {}, ""
    for split, option in options.items():
        try:
            sets[split] = kind(root, **option)
        except Exception as error:  # each data set refuses a missing folder or split in its own way
            reason = reason or str(error)
    if not sets:
        raise UserError(f"torchvision:{name} must lie below {root}: {reason}")
    place = [os.path.realpath(root), walk(Path(root)).files]
    return {
        split: (
            dataset,
            Source(name, partial(_reading, dataset, name), ["torchvision", name, split, place]),
        )
        for split, dataset in sets.items()
    }


def _reading(dataset: Any, name: str) -> Reading:
    if hasattr(dataset, "samples"):
        items = (Item(path, int(label), Path(path)) for path, label in dataset.samples)
    else:
        samples = ((row, dataset[row]) for row in range(len(dataset)))
        items = (Item(f"{name}[{row}]", raw(label), image) for row, (image, label, *_) in samples)
    classes = getattr(dataset, "classes", None)
    return Reading(classes and [str(name) for name in classes], len(dataset), items)
