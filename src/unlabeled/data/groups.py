"""Which samples are not independent of each other: those of one document, recording, speaker or other source."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.samples import Data

__all__ = [
    "ALONE",
    "FOLDER",
    "folder_groups",
    "group_by",
    "joined",
    "names_column",
    "numbers_of",
    "usual_groups",
]

ALONE, FOLDER = "none", "folder"
"""Words that name no column: every sample stands alone, or those of one folder are a group."""
_DOCUMENT = re.compile(r"(?i)\.(txt|md|rst)(\.(gz|bz2|zst))?$")
"""Names of files that are one text each."""
_log = logging.getLogger("unlabeled.data")


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Numbers of the sets of samples that have either number in common, directly or by way of others.

    Args:
        first: Integers of any size, int64, shape (samples,).
        second: As the first.

    Returns:
        From 0 in the order in which they first come, int64, shape (samples,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(first):
        return first.clone()
    left, right = (numbers.unique(return_inverse=True)[1].numpy() for numbers in (first, second))
    ones, shape = torch.ones(len(first)).numpy(), (int(left.max()) + 1, int(right.max()) + 1)
    # Both kinds of numbers are nodes of one graph, whose edges are the samples.
    nodes = shape[0] + shape[1]
    graph = coo_array((ones, (left, right + shape[0])), shape=(nodes, nodes))
    sets = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    return numbers_of(sets[torch.from_numpy(left)].tolist())


def numbers_of(keys: Sequence[object]) -> Tensor:
    """Numbers of equal keys, int64, from 0 in the order in which they first come; each None has one of its own."""
    numbers: dict[object, int] = {}
    alone = [("alone", row) if key is None else ("key", key) for row, key in enumerate(keys)]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in alone], dtype=torch.int64)


def folder_groups(paths: Sequence[str], labels: Tensor | None) -> Tensor | None:
    """Groups of files that are together in a folder below that of their class.

    Args:
        paths: The files.
        labels: Class of each, as its folder says, int64, shape (files,).

    Returns:
        int64, shape (files,); None where folders distinguish no groups, as where each class has but one.
    """
    if labels is None or not len(paths):
        return None
    folders = numbers_of([os.path.dirname(path) for path in paths])
    classes = [folders[labels == label].unique() for label in labels.unique()]
    several = all(len(folders) > 1 for folders in classes)
    return folders if several and len(folders) > sum(map(len, classes)) else None


def usual_groups(data: Data, path: Path, pages: bool) -> None:
    """Group samples where the data does not say and the user did not: those of a text in one file, of files of several
    pages (whose pages are samples), and of the folders of sounds and videos.
    """
    if data.groups is not None:
        return
    if data.kind == "text" and path.is_file() and _DOCUMENT.search(path.name):
        data.groups = torch.zeros(len(data), dtype=torch.int64)
    elif data.kind == "image" and pages:
        # Rows of tables have a number after a # too, but after the name of a table.
        above = [name.rpartition("#")[0] for name in data.paths]
        files = [file if file.lower().endswith(SUFFIXES) else name for file, name in zip(above, data.paths)]
        if len({*files}) < len(files):
            data.groups, data.group_unit = numbers_of(files), "files"
    elif data.kind in ("audio", "video", "audio-visual"):
        data.groups = folder_groups(data.paths, data.labels)


def group_by(data: Data, group: str, root: str = "") -> None:
    """Say which samples of some data are not independent, in place of what it says itself.

    Args:
        data: The data, whose `groups`, `group_unit` and `group_names` are set.
        group: As in `OpenOptions`; a column is one of `data.factors` or `data.columns`.
        root: Folder before which paths are not searched.

    Raises:
        ValueError: Nothing is called so, or the expression is none or matches no path.
    """
    if group == ALONE:
        data.groups, data.group_unit, data.group_names = None, type(data).group_unit, {}
        return
    keys = _keys(data, group, root)
    data.groups, data.group_unit = numbers_of(keys), "groups"
    named = zip(data.groups.tolist(), keys, strict=True)
    data.group_names = {number: str(key) for number, key in named if key is not None}


def names_column(data: Data, group: str) -> bool:
    """Whether what a user names can only be a column of a table that the data does not know of."""
    return "(" not in group and group not in (ALONE, FOLDER) and group not in data.factors


def _keys(data: Data, group: str, root: str) -> Sequence[object]:
    """What the group of each sample is called, None where it has none."""
    below = [path.removeprefix(root).replace(os.sep, "/") for path in data.paths]
    if "(" in group:
        return _matched(below, group, data.unit)
    if group == FOLDER:
        return [path.rpartition("/")[0] for path in below]
    column = data.factors.get(group)
    if column is None and group in data.columns:
        return data.columns[group]
    if column is None:
        choices = ", ".join([ALONE, FOLDER, *data.factors, *data.columns])
        raise UserError(
            f"group must be one of {choices}, or a regular expression for paths with one capture group such as "
            f"'(speaker\\d+)_', got {group}"
        )
    if column.ndim > 1 or (column.is_floating_point() and bool((column != column.round()).any())):
        raise UserError(f"group must be one whole number for each sample, got the quantity {group}")
    return [None if number != number else number for number in column.tolist()]


def _matched(paths: Sequence[str], group: str, unit: str) -> list[str | None]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UserError(f"group must be a regular expression, got {group}: {error}") from error
    if pattern.groups != 1:
        raise UserError(f"group must have one capture group, got {pattern.groups} in {group}")
    matches = [pattern.search(path) for path in paths]
    keys = [match.group(1) if match else None for match in matches]
    alone = keys.count(None)
    if alone == len(keys):
        raise UserError(f"group must match paths such as {paths[0] if paths else 'none'}, got {group}")
    if alone:
        example = paths[keys.index(None)]
        _log.warning(
            "%s of %s %s have no group: %s does not match %s", alone, len(keys), unit, group, example
        )
    return keys
