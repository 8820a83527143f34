"""Near duplicates among texts: copies with a few words changed, added or removed.

Texts are compared by the fraction of stretches of eight characters that they have in common (Jaccard), whatever their
case and white space, so no language needs words. It is estimated by MinHash with one permutation and 128 bins; texts
that agree in four neighbouring bins anywhere are compared.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["LEAST_OVERLAP", "near_texts"]

_LENGTH, _BINS, _BAND = 8, 128, 4
LEAST_OVERLAP = 0.8
"""Fraction of stretches of characters in common from which texts are copies."""
_EMPTY = np.uint64(2**64 - 1)


def near_texts(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Find texts that have most in common.

    Args:
        texts: Texts of any length; those of fewer than eight characters are compared whole.

    Returns:
        Rows of both texts, the smaller first, int64, shape (pairs, 2), and the estimated fraction of what they have in
        common, at least 0.8, shape (pairs,). In large groups of copies not all pairs are listed, but the listed ones
        connect them.
    """
    signatures = np.stack([_signature(text) for text in texts]) if texts else np.zeros((0, _BINS), np.uint64)
    candidates = set()
    for band in range(0, _BINS, _BAND):
        buckets: dict[bytes, list[int]] = {}
        for row, part in enumerate(signatures[:, band : band + _BAND]):
            buckets.setdefault(part.tobytes(), []).append(row)
        for rows in buckets.values():
            candidates |= {(rows[0], row) for row in rows[1:]} | set(pairwise(rows))
    pairs = torch.tensor(sorted(candidates), dtype=torch.int64).reshape(-1, 2)
    first, second = (signatures[pairs[:, side].numpy()] for side in (0, 1))
    overlap = torch.from_numpy((first == second).mean(1)) if len(pairs) else torch.zeros(0)
    return pairs[overlap >= LEAST_OVERLAP], overlap[overlap >= LEAST_OVERLAP].float()


def _signature(text: str) -> np.ndarray:
    """Least hash of each of 128 bins, uint64, shape (128,); an empty bin takes that of the next one that is not."""
    plain = " ".join(text.casefold().split()).ljust(_LENGTH)
    letters = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(letters) - _LENGTH + 1, np.uint64)
    for start in range(_LENGTH):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + letters[start : start + len(hashes)]
    for shift, factor in ((32, 0xD6E8FEB86659FD93), (29, 0xBF58476D1CE4E5B9), (32, 1)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    least = np.full(_BINS, _EMPTY)
    np.minimum.at(least, (hashes % np.uint64(_BINS)).astype(np.int64), hashes // np.uint64(_BINS))
    full = np.flatnonzero(least != _EMPTY)
    return least[full[np.searchsorted(full, np.arange(_BINS)) % len(full)]]
