"""Few labels: small, nested draws of the training labels, balanced or a fraction of each class."""

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = ["counts", "draw"]

NAMED = 5
"""Classes that a message names."""


def counts(requested: Iterable[int | str], name: str = "labels_per_class") -> list[int | str]:
    """Labels per class in order: whole numbers, then percentages such as "1%", then "all".

    Args:
        requested: Numbers and words in any order; numbers may be text, and 100% is "all".
        name: What messages call them.

    Raises:
        ValueError: One is something else.
    """
    numbers, percents, every = set(), set(), []
    for count in list(requested) or ["nothing"]:
        text = "".join(str(count).split())
        if text == "all" or re.fullmatch(r"100(\.0*)?%", text):
            every = ["all"]
        elif re.fullmatch(r"\d*\.?\d+%", text) and 0 < float(text[:-1]) < 100:
            percents.add(float(text[:-1]))
        elif text.isdecimal() and int(text):
            numbers.add(int(text))
        else:
            raise UserError(
                f"{name} must be whole numbers above 0, percentages such as 1% or all, got {count}"
            )
    return [*sorted(numbers), *(f"{percent:g}%" for percent in sorted(percents)), *every]


def draw(
    labels: Tensor, per_class: int | str, *, classes: list[str] | int, draws: int = 5, seed: int = 0
) -> list[Tensor]:
    """Draw subsets of each class; a draw with fewer labels lies inside the same draw with more.

    Classes without a label are omitted. A fraction is taken of each class (stratified), rounded, at least one sample.

    Args:
        labels: Class of each sample, int64, shape (samples,).
        per_class: Samples of each class, a fraction of them such as "1%", or "all", of which there is one draw.
        classes: Names of the classes, or their number where they have none.
        draws: Number of subsets.
        seed: Seed of the draws.

    Returns:
        `draws` tensors of row numbers, ascending, int64, on the CPU; shape (per_class * classes
        with a label,) each where `per_class` is a number.

    Raises:
        ValueError: A class has labels, but fewer than `per_class`.
    """
    if per_class == "all":
        return [torch.arange(len(labels))]
    names = [str(index) for index in range(classes)] if isinstance(classes, int) else classes
    labels = labels.cpu()
    present, sizes = labels.unique(return_counts=True)
    quotas = [_quota(per_class, size) for size in sizes.tolist()]
    pairs = zip(present.tolist(), quotas, sizes.tolist(), strict=True)
    if few := [f"class {names[label]} has {size:,}" for label, quota, size in pairs if quota > size]:
        more = f" and {len(few) - NAMED:,} more have fewer too" if len(few) > NAMED else ""
        raise UserError(
            f"labels_per_class must be at most the training labels of each class, got {per_class}: "
            f"{', '.join(few[:NAMED])}{more}; --labels-per-class {int(sizes.min())} or all takes every class"
        )
    order = torch.rand(draws, len(labels), generator=torch.Generator().manual_seed(seed))
    members = [(labels == label).nonzero()[:, 0] for label in present]
    return [
        torch.cat([rows[keys[rows].argsort()[:quota]] for rows, quota in zip(members, quotas)]).msort()
        for keys in order
    ]


def _quota(per_class: int | str, size: int) -> int:
    """How many labels of a class of some size are drawn."""
    if isinstance(per_class, int):
        return per_class
    return max(1, math.floor(float(per_class.rstrip("%")) / 100 * size + 0.5))
