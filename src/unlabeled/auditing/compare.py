"""The comparison of data with itself: copies within and across parts, exact and near."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabeled.auditing.findings import Audit, NearPair
from unlabeled.auditing.near_images import has_detail, near_pairs, thumbnails_of
from unlabeled.auditing.near_texts import LEAST_OVERLAP, near_texts
from unlabeled.auditing.parts import Part, open_parts
from unlabeled.check import UserError
from unlabeled.data import Images
from unlabeled.data.opening import Openable, refuse_missing
from unlabeled.data.options import refuse_unknown
from unlabeled.data.splits import first_rows
from unlabeled.data.text.data import Texts

__all__ = ["audit"]


def audit(
    *sources: Openable,
    kind: str | None = None,
    near: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Audit:
    """Look for copies, broken files and labels that disagree, within and across the parts of data.

    Equal samples are found in data of every kind, near-duplicates among images and texts: see `auditing.near_images`
    and `auditing.near_texts`. Broken files never stop an audit.

    Args:
        *sources: As in `open_data`; all splits of each are parts.
        kind: As in `open_data`.
        near: Whether to look for near-duplicates too.
        seed: Seed of the sample of images to which the search for near-duplicates is fitted.
        progress: Called with a line on what is done.
        **options: As in `open_data`, without `split` and `max_broken`.

    Raises:
        ValueError: There is no source, or nothing of that name.
    """
    if not sources:
        raise UserError("audit must get at least one source, got none")
    refuse_unknown(audit, options)
    for source in sources:
        refuse_missing(source)
    say = progress or (lambda _: None)
    parts = open_parts(sources, kind, options, say)
    say(f"comparing {sum(map(len, parts)):,} samples")
    digests = torch.cat(
        [part.data.digests() if part.data is not None else torch.zeros(0).long() for part in parts]
    )
    _, content = digests.unique(return_inverse=True)
    part_of = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    pairs, thresholds, flat = _near(parts, first_rows(digests), seed, say) if near else ([], {}, 0)
    copies = _copies(content, part_of, pairs, len(parts))
    return Audit(parts, _groups(content, part_of), pairs if near else None, thresholds, flat, copies)


def _groups(content: Tensor, part_of: Tensor) -> list[list[int]]:
    """Numbers of identical samples, those across parts first, then the largest groups first."""
    order = content.argsort(stable=True)
    groups = [group.tolist() for group in order.split(content.bincount().tolist()) if len(group) > 1]
    parts = part_of.tolist()
    return sorted(groups, key=lambda group: (len({parts[n] for n in group}) < 2, -len(group), group[0]))


def _copies(
    content: Tensor, part_of: Tensor, pairs: Sequence[NearPair], count: int
) -> list[list[tuple[int, int]]]:
    """As in `Audit.copies`."""
    contents = int(content.max()) + 1 if len(content) else 0
    holds = torch.zeros(contents, count, dtype=torch.int64)
    holds.index_put_((content, part_of), torch.ones(len(content), dtype=torch.int64), accumulate=True)
    beside = torch.zeros(contents, count, dtype=torch.bool)
    for pair in pairs:
        first, second = content[pair.first], content[pair.second]
        beside[first] |= holds[second] > 0
        beside[second] |= holds[first] > 0
    table = []
    for part in range(count):
        own = content[part_of == part]
        equal = holds[own] > (torch.arange(count) == part)
        near = beside[own] & ~equal
        table.append(list(zip(equal.sum(0).tolist(), near.sum(0).tolist(), strict=True)))
    return table


def _near(
    parts: Sequence[Part], numbers: Tensor, seed: int, say: Callable[[str], None]
) -> tuple[list[NearPair], dict[str, float], int]:
    """Near-duplicates among samples of some numbers, the lowest score of each kind, and the number of flat images."""
    images: list[tuple[Images, Tensor, int]] = []
    texts: list[tuple[Texts, Tensor, int]] = []
    for part, (start, end) in zip(parts, pairwise(np.cumsum([0, *map(len, parts)]).tolist()), strict=True):
        own = numbers[(numbers >= start) & (numbers < end)]
        if isinstance(part.data, Images):
            images.append((part.data, own, start))
        elif isinstance(part.data, Texts):
            texts.append((part.data, own, start))
    pairs: list[NearPair] = []
    thresholds, flat = {}, 0
    if images:
        pairs, thresholds["image"], flat = _near_images(images, seed, say)
    if texts:
        pairs += _near_texts(texts, say)
        thresholds["text"] = LEAST_OVERLAP
    return sorted(pairs, key=lambda pair: -pair.score), thresholds, flat


def _near_images(
    images: Sequence[tuple[Images, Tensor, int]], seed: int, say: Callable[[str], None]
) -> tuple[list[NearPair], float, int]:
    """Near-duplicates among images, each with the numbers to compare and the first of its part."""
    numbers = torch.cat([own for _, own, _ in images])
    say(f"looking for near-duplicates among {len(numbers):,} images")
    small = thumbnails_of([(data, own - start) for data, own, start in images])
    near = near_pairs(small, seed=seed)
    rows = zip(numbers[near.pairs].tolist(), near.score.tolist(), near.mirrored.tolist(), strict=True)
    pairs = [NearPair(first, second, score, mirrored) for (first, second), score, mirrored in rows]
    return pairs, round(near.threshold, 3), int((~has_detail(small)).sum())


def _near_texts(texts: Sequence[tuple[Texts, Tensor, int]], say: Callable[[str], None]) -> list[NearPair]:
    """Near-duplicates among texts, each with the numbers to compare and the first of its part."""
    numbers = torch.cat([own for _, own, _ in texts])
    say(f"looking for near-duplicates among {len(numbers):,} texts")
    pairs, score = near_texts(
        [data.texts[row] for data, own, start in texts for row in (own - start).tolist()]
    )
    rows = zip(numbers[pairs].tolist(), score.tolist(), strict=True)
    return [NearPair(first, second, score) for (first, second), score in rows]
