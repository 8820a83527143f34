"""Opens images.

Sources are one of
- a folder of image files, perhaps with a table beside them (`listings`) such as metadata.csv; or a folder or file of
  parquet or Arrow tables (`tables`), or of tar or zip archives (`tars`): what holds the most images in a folder is
  taken, and the rest is listed as skipped; parts are those of folders or names of files, else of a column `split`;
- a table or a list of paths in .csv, .tsv, .jsonl or .txt;
- a .npy or .npz file (see `image.arrays`);
- `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, a data set on the Hugging Face hub;
- `torchvision:NAME` or `torchvision:NAME:ROOT`, a data set that torchvision finds below ROOT;
- an array or tensor of images;
- a list, data set or data frame of images (see `image.objects`).
"""

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabeled.data.decoding import samples_of
from unlabeled.data.image.annotated import Annotations
from unlabeled.data.image.arrays import find_file, from_array
from unlabeled.data.image.containers import find_path
from unlabeled.data.image.data import Images
from unlabeled.data.image.levels import parsed
from unlabeled.data.image.libraries import find_hub, find_torchvision
from unlabeled.data.image.objects import find_object
from unlabeled.data.image.store import stored
from unlabeled.data.labels import refuse_column
from unlabeled.data.options import OpenOptions
from unlabeled.data.sources import Source

__all__ = ["find"]


def find(source: Any, options: OpenOptions) -> Mapping[str, Callable[[], Images]]:
    """What opens each split of images, by the split's name; "all" where it has none.

    Args:
        source: What the module names.
        options: How it is opened.

    Raises:
        ValueError: No image is there.
    """
    if isinstance(source, np.ndarray | Tensor):
        refuse_column(options.label, "an array")
        return {"all": partial(from_array, source, channels=options.channels, levels=parsed(options.levels))}
    if not isinstance(source, str | os.PathLike):
        objects = find_object(source, options.label, options.channels)
        return {split: partial(_opened, source, options) for split, source in objects.items()}
    name, path = os.fspath(source), Path(source).expanduser()
    if name.startswith("hub:"):
        return _splits(find_hub(name.removeprefix("hub:"), options.label), options)
    if name.startswith("torchvision:"):
        refuse_column(options.label, name)
        sets = find_torchvision(name.removeprefix("torchvision:"))
        return {split: partial(_of_torchvision, name, *part, options) for split, part in sets.items()}
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        refuse_column(options.label, name)
        return find_file(path, options.channels, parsed(options.levels))
    sources = find_path(path, name, options.label, options.annotations)
    return _splits(sources, options, Annotations(path, options.annotations) if options.annotations else None)


def _splits(
    sources: dict[str, Source], options: OpenOptions, annotations: Annotations | None = None
) -> Mapping[str, Callable[[], Images]]:
    """What opens each split; where one archive or more hold several, these are known only when it is read."""
    ((split, source), *others) = sources.items()
    if others or not source.archives:
        return {split: partial(_opened, source, options, annotations) for split, source in sources.items()}
    data = _opened(source, options)
    inside = source.inside(data.paths)
    if len(inside) < 2:
        return {split: lambda: data}
    return {part: partial(data.subset, torch.tensor(rows)) for part, (rows, _) in inside.items()}


def _of_torchvision(name: str, dataset: Any, source: Source, options: OpenOptions) -> Images:
    images = getattr(dataset, "data", None)
    if not isinstance(images, np.ndarray | Tensor):
        return _opened(source, options)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    classes = getattr(dataset, "classes", None)
    return from_array(images, labels, name, options.channels, classes, parsed(options.levels))


def _opened(source: Source | Images, options: OpenOptions, annotations: Annotations | None = None) -> Images:
    if isinstance(source, Images):
        return source
    with warnings.catch_warnings():  # Pillow warns about files that it reads all the same
        warnings.simplefilter("ignore")
        pixels, about = stored(source, options)
    sizes = torch.tensor(about["sizes"])
    data = Images(
        pixels,
        sizes if len(sizes) == len(about["paths"]) else sizes.repeat(len(about["paths"]), 1),
        channels=about["channels"],
        **samples_of(source, about, options.max_broken),
    )
    data.levels = about["levels"] or None
    if annotations is None:
        return data
    originals = torch.tensor(about["originals"])
    return annotations.of(data, originals if len(originals) == len(data) else originals.repeat(len(data), 1))
