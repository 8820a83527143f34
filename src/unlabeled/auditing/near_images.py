"""Near duplicates among images: copies that were cropped, mirrored, resized or compressed again.

The search narrows in three steps, all on thumbnails of 32 x 32 pixels:

1. Candidates. Each image is paired with those that are most likely its copies (`auditing.candidates`).
2. Windows. Of 36 windows of one image, mirrored or not, that which correlates best with the whole of the other is kept.
3. Alignment. The window is fitted to fractions of a pixel, then fine detail must correlate (`auditing.alignment`).

Images of one kind, such as characters or radiographs, resemble one another even in detail. How many pairs reach a score
by chance is therefore extrapolated from those that fall short of it, and the threshold is raised until chance accounts
for a twentieth of what is reported.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.auditing.alignment import align, match_windows
from unlabeled.auditing.candidates import candidates
from unlabeled.auditing.thumbnails import has_detail, thumbnails, thumbnails_of

__all__ = ["NearPairs", "has_detail", "near_pairs", "thumbnails", "thumbnails_of"]

_PARTNERS, _ALIGNED = 12, 150_000
"""Most candidates of one image that are aligned, and more where there are no more pairs than these in all; the latter
only where all pairs are sought, as this step takes longest."""
_LEAST_SCORE, _HIGHEST_SCORE = 0.92, 0.985
_CHANCE_FRACTION = 0.05
"""Fraction of pairs that reach a score by chance among those that are reported."""
_BANDS = (0.88, 0.90, 0.92)
"""Ends of two bands of scores in which nearly all pairs of images of one kind are there by chance."""
_POWERS = (2.0, 6.0)
"""Least and greatest power of 1 - score with which chance pairs become fewer."""


class NearPairs(NamedTuple):
    """Pairs of images of which one is probably a copy of the other, by falling score."""

    pairs: Tensor
    """Rows of both images, the smaller first, int64, shape (pairs, 2)."""
    score: Tensor
    """Correlation of fine detail after alignment, float, shape (pairs,), at most 1."""
    mirrored: Tensor
    """Whether one is a mirror image of the other, bool, shape (pairs,)."""
    threshold: float
    """The lowest score that is reported among these images."""


def near_pairs(small: Tensor, *, part: Tensor | None = None, chance: float = 1.0, seed: int = 0) -> NearPairs:
    """Find images that are probably copies of one another.

    Copies are crops of at least 80 % of each side, mirror images, images of half the size or compressed as JPEG, and
    combinations of these. Exact copies should be removed beforehand, as they would fill the list of candidates of an
    image. In large groups of copies not all pairs are listed, but the listed ones connect them.

    Args:
        small: As `thumbnails` returns them; those without detail are skipped (see `has_detail`).
        part: Part that each image is in, int64 or bool, shape (images,), where only pairs across parts are looked for;
            None looks for all.
        chance: Pairs that may be there by chance where few are reported; more where these are a twentieth.
        seed: Seed of the sample to which the discriminants are fitted.
    """
    rows = has_detail(small).nonzero().flatten()
    if len(rows) < 2:
        none = torch.zeros(0)
        return NearPairs(none.long().view(0, 2), none, none.bool(), _LEAST_SCORE)
    small = small[rows]
    pairs = candidates(small, None if part is None else part[rows], torch.Generator().manual_seed(seed))
    partners = max(_PARTNERS, _ALIGNED // len(small) if part is None else 0)
    pairs, window, _ = match_windows(small, pairs, partners)
    pairs, score, mirrored = align(small, pairs, window)
    threshold = _threshold(score, chance)
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] >= threshold]
    return NearPairs(rows[pairs[order]], score[order], mirrored[order], threshold)


def _threshold(score: Tensor, chance: float = 1.0) -> float:
    """The lowest score at which chance accounts for a small fraction of the pairs that reach it.

    The number of chance pairs with a score above s is taken to be c (1 - s)^k, and c and k from the pairs in two bands
    of scores that few copies have: on characters k is 2 to 5, on radiographs 5 and rising with s.
    """
    far, middle, close = (1 - limit for limit in _BANDS)
    first, second = (max(1, int(((score >= low) & (score < high)).sum())) for low, high in pairwise(_BANDS))
    powers = torch.linspace(*_POWERS, 61).tolist()
    ratios = [(far**power - middle**power) / (middle**power - close**power) for power in powers]
    power = min(zip(powers, ratios, strict=True), key=lambda item: abs(item[1] - first / second))[0]
    scale = second / (middle**power - close**power)
    for threshold in torch.linspace(_LEAST_SCORE, _HIGHEST_SCORE, 66).tolist():
        if scale * (1 - threshold) ** power <= max(
            chance, _CHANCE_FRACTION * int((score >= threshold).sum())
        ):
            return threshold
    return _HIGHEST_SCORE
