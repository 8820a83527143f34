"""Few labels: the same probe on small, nested draws of the training labels, balanced or a share of each class."""

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = ["counts", "subsets"]


def counts(given: Iterable[int | str]) -> list[int | str]:
    """Labels per class as asked for: whole numbers in ascending order, then shares such as "1%", then "all".

    Args:
        given: Numbers and words in any order; numbers may be text, and 100% is "all".

    Raises:
        ValueError: One is something else.
    """
    numbers, shares, every = set(), set(), []
    for count in list(given) or ["nothing"]:
        text = "".join(str(count).split())
        if text == "all" or re.fullmatch(r"100(\.0*)?%", text):
            every = ["all"]
        elif re.fullmatch(r"\d*\.?\d+%", text) and 0 < float(text[:-1]) < 100:
            shares.add(float(text[:-1]))
        elif text.isdecimal() and int(text):
            numbers.add(int(text))
        else:
            raise UserError(
                f"labels_per_class must be whole numbers above 0, shares such as 1% or all, got {count}"
            )
    return [*sorted(numbers), *(f"{share:g}%" for share in sorted(shares)), *every]


def subsets(
    labels: Tensor, per_class: int | str, *, classes: list[str] | int, draws: int = 5, seed: int = 0
) -> list[Tensor]:
    """Draw subsets of each class; a draw with fewer labels lies inside the same draw with more.

    Classes without a label are left out. A share is of each class by itself (stratified), rounded, and at least one.

    Args:
        labels: Class of each sample, int64, shape (samples,).
        per_class: Samples of each class, or their share such as "1%".
        classes: Names of the classes, or their number where they have none.
        draws: Number of subsets.
        seed: Seed of the draws.

    Returns:
        `draws` tensors of row numbers, ascending, int64, on the CPU; shape (per_class * classes
        with a label,) each where `per_class` is a number.

    Raises:
        ValueError: A class has labels, but fewer than `per_class`.
    """
    names = [str(index) for index in range(classes)] if isinstance(classes, int) else classes
    labels = labels.cpu()
    found, sizes = labels.unique(return_counts=True)
    wanted = [_wanted(per_class, size) for size in sizes.tolist()]
    for label, count, most in zip(found.tolist(), wanted, sizes.tolist(), strict=True):
        if count > most:
            raise UserError(
                f"labels_per_class must be at most the labels of each class, got {per_class}: "
                f"class {names[label]} has {most}"
            )
    order = torch.rand(draws, len(labels), generator=torch.Generator().manual_seed(seed))
    members = [(labels == label).nonzero()[:, 0] for label in found]
    return [
        torch.cat([rows[draw[rows].argsort()[:count]] for rows, count in zip(members, wanted, strict=True)])
        .sort()
        .values
        for draw in order
    ]


def _wanted(per_class: int | str, size: int) -> int:
    """How many of a class's labels are drawn."""
    if isinstance(per_class, int):
        return per_class
    return max(1, math.floor(float(per_class.rstrip("%")) / 100 * size + 0.5))
