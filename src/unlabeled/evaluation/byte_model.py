"""What a text costs without any network: by frequencies of bytes, and by gzip."""

import gzip
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["ByteModel", "gzip_nats"]

_GZIP = 16 + zlib.MAX_WBITS


def gzip_nats(documents: Sequence[bytes]) -> Tensor:
    """What gzip -9 needs for all documents in one file, divided among them, float, shape (documents,)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    parts = [len(packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)) for text in documents]
    whole = 8 * len(gzip.compress(b"".join(documents), 9))
    return torch.tensor(parts, dtype=torch.double) / sum(parts) * whole * math.log(2)


class ByteModel:
    """Frequencies of bytes after the one or two bytes before them, mixed with shorter contexts (Witten-Bell).

    Args:
        documents: Texts whose bytes are counted.
    """

    def __init__(self, documents: Sequence[bytes]) -> None:
        first, second, third = np.concatenate([_windows(text) for text in documents], axis=1)
        self.singles = np.bincount(third, minlength=256)
        self.pairs = np.bincount(second << 8 | third, minlength=1 << 16).reshape(256, 256)
        self.triples, self.counts = np.unique(first << 16 | second << 8 | third, return_counts=True)
        self.contexts = np.zeros((2, 1 << 16), dtype=np.int64)
        np.add.at(self.contexts[0], self.triples >> 8, self.counts)
        np.add.at(self.contexts[1], self.triples >> 8, 1)

    def nats(self, text: bytes, order: int) -> float:
        """Surprise of a document.

        Args:
            text: The document.
            order: 1 looks at no byte before, 2 at one and 3 at two.
        """
        first, second, third = _windows(text)
        return float(-np.log(self.probabilities(first, second, third, order)).sum())

    def probabilities(
        self, first: np.ndarray, second: np.ndarray, third: np.ndarray, order: int
    ) -> np.ndarray:
        """Of bytes `third` after `first` and `second`, float, shape (bytes,)."""
        mixed = (self.singles[third] + 1) / (self.singles.sum() + 256)
        if order > 1:
            total, kinds = self.pairs[second].sum(1), (self.pairs[second] > 0).sum(1)
            mixed = (self.pairs[second, third] + np.maximum(kinds, 1) * mixed) / np.maximum(total + kinds, 1)
        if order > 2:
            code = first << 16 | second << 8 | third
            index = np.minimum(np.searchsorted(self.triples, code), len(self.triples) - 1)
            count = np.where(self.triples[index] == code, self.counts[index], 0)
            total, kinds = self.contexts[:, code >> 8]
            mixed = (count + np.maximum(kinds, 1) * mixed) / np.maximum(total + kinds, 1)
        return mixed


def _windows(text: bytes) -> np.ndarray:
    """Each byte with the two before it, int64, shape (3, bytes); a text follows two line feeds."""
    content = np.frombuffer(b"\n\n" + text, dtype=np.uint8).astype(np.int64)
    return np.stack([content[:-2], content[1:-1], content[2:]])
