"""Task `perplexity`: how well a network that never looks ahead predicts texts that it has not seen.

Perplexity is exp of the mean nats for each word piece: as many equally likely pieces would be as hard to guess. It
depends on the vocabulary, so networks with different ones compare by bits per byte: all bits over the bytes of the text
itself. Each piece is predicted once, from at most the network's window before it. Data without a test part of its own
is divided, with a warning: a network that was trained on all of it has seen the test texts.
"""

import gzip
import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.opening import Opened, both, is_divided
from unlabeled.evaluation.scores import Measurement
from unlabeled.methods.gpt import GPT

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.evaluation.tasks import Subject

__all__ = ["ByteModel", "bits_per_byte", "gzip_nats", "measure", "per_piece"]

BATCH = 64
_GZIP = 16 + zlib.MAX_WBITS


def per_piece(nats: Tensor, pieces: Tensor) -> float:
    """Exp of the mean nats for each piece.

    Args:
        nats: Of each document, float, shape (documents,).
        pieces: Of each document, shape (documents,).
    """
    return math.exp(float(nats.double().sum() / pieces.sum()))


def bits_per_byte(nats: Tensor, sizes: Tensor) -> float:
    """All bits over all bytes.

    Args:
        nats: Of each document, float, shape (documents,).
        sizes: Bytes of each document, shape (documents,).
    """
    return float(nats.double().sum() / sizes.sum()) / math.log(2)


def gzip_nats(documents: Sequence[bytes]) -> Tensor:
    """What gzip -9 needs for all documents in one file, divided among them, float, shape (documents,)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    shares = [len(packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)) for text in documents]
    whole = 8 * len(gzip.compress(b"".join(documents), 9))
    return torch.tensor(shares, dtype=torch.double) / sum(shares) * whole * math.log(2)


class ByteModel:
    """How often a byte follows the one or two before it, mixed with shorter contexts (Witten-Bell).

    Args:
        documents: What it counts.
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
        """What a document costs.

        Args:
            text: The document.
            order: 1 knows no byte before, 2 one and 3 two.
        """
        first, second, third = _windows(text)
        return float(-np.log(self.probabilities(first, second, third, order)).sum())

    def probabilities(
        self, first: np.ndarray, second: np.ndarray, third: np.ndarray, order: int
    ) -> np.ndarray:
        """Of bytes `third` behind `first` and `second`, float, shape (bytes,)."""
        found = (self.singles[third] + 1) / (self.singles.sum() + 256)
        if order > 1:
            total, kinds = self.pairs[second].sum(1), (self.pairs[second] > 0).sum(1)
            found = (self.pairs[second, third] + np.maximum(kinds, 1) * found) / np.maximum(total + kinds, 1)
        if order > 2:
            code = first << 16 | second << 8 | third
            place = np.minimum(np.searchsorted(self.triples, code), len(self.triples) - 1)
            seen = np.where(self.triples[place] == code, self.counts[place], 0)
            total, kinds = self.contexts[:, code >> 8]
            found = (seen + np.maximum(kinds, 1) * found) / np.maximum(total + kinds, 1)
        return found


def measure(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Perplexity and bits per byte of ours and of a random twin, with what counting and packing reach.

    Raises:
        ValueError: The encoder looks ahead, so that nothing is left to be predicted.
    """
    encoder: Any = subject.encoder
    if getattr(encoder, "family", None) != "gpt":
        name = encoder.config.get("name", type(encoder).__name__)
        raise UserError(f"perplexity needs an encoder that never looks ahead, such as gpt-mini, got {name}")
    opened = data if isinstance(data, Opened) else _opened(data)
    train: Any = opened.train
    test: Any = opened.test
    blocks = encoder.blocks(test)
    numbers = blocks.documents.unique()
    documents = [text.encode() for text in test.whole()]
    sizes = _by_document(torch.tensor([len(text) for text in documents]), _firsts(test), numbers)
    pieces = _by_document(blocks.lengths - 1, blocks.documents, numbers)
    about = f"{int(pieces.sum())} pieces of {encoder.vocabulary}, {int(sizes.sum())} bytes, window of {encoder.length}"
    if opened.divided:
        warning = f"a part of {test.name} cut off: no unseen texts for what was trained on all of it"
        about += f", {warning}"
        warnings.warn(f"perplexity is on {warning}", stacklevel=2)
    groups = _groups(test, numbers)
    seen = [text.encode() for text in train.whole()]
    counted, rows = ByteModel(seen), _firsts(test)
    nats = {
        "unlabeled": surprise(GPT(encoder), blocks, numbers, device),
        "random": surprise(GPT(subject.untrained()), blocks, numbers, device),
    }
    by_bytes = nats | {
        "gzip -9": _by_document(gzip_nats(documents), rows, numbers),
        **{
            f"byte {name}": _by_document(
                torch.tensor([counted.nats(d, order) for d in documents]), rows, numbers
            )
            for name, order in (("unigram", 1), ("trigram", 3))
        },
    }
    by_pieces = nats | {"piece unigram": _unigram(encoder.blocks(train), blocks, encoder.vocabulary, numbers)}
    return [
        *(
            _measured(name, per_piece, n, pieces, groups, "perplexity", about, seed)
            for name, n in by_pieces.items()
        ),
        *(
            _measured(name, bits_per_byte, n, sizes, groups, "bits per byte", about, seed)
            for name, n in by_bytes.items()
        ),
    ]


def _opened(data: Any) -> Opened:
    how = {"kind": "text"}
    return Opened(*both(data, None, how), how, is_divided(data, None, how))


@torch.no_grad()
def surprise(method: GPT, blocks: "Data", numbers: Tensor, device: torch.device) -> Tensor:
    """Nats that each document costs, float64, shape (documents,).

    Args:
        method: The network.
        blocks: All pieces of the documents, as the encoder's `blocks` gives them.
        numbers: Numbers of the documents, rising, int64, shape (documents,).
        device: Where to compute.
    """
    method.to(device).eval()
    found = [method.surprise(batch).double().sum(1) for batch in blocks.to(device).batches(BATCH)]
    return _by_document(torch.cat(found).cpu(), blocks.documents, numbers)  # type: ignore[attr-defined]


def _measured(
    name: str,
    statistic: Callable[[Tensor, Tensor], float],
    nats: Tensor,
    sizes: Tensor,
    groups: Tensor | None,
    unit: str,
    about: str,
    seed: int,
) -> Measurement:
    value, left_out = leave_one_out(
        lambda rows: statistic(nats[rows], sizes[rows]), len(nats), groups, sizes=sizes, seed=seed
    )
    return Measurement(
        "perplexity", None, "all", name, torch.tensor([[value]]), about, unit, "lower", left_out,
        counted="documents" if groups is None or len(groups.unique()) == len(nats) else "groups of documents",
        samples=len(nats), bounds=(1.0 if unit == "perplexity" else 0.0, math.inf),
    )  # fmt: skip


def _unigram(train: Any, test: Any, vocabulary: int, numbers: Tensor) -> Tensor:
    """What each document costs one who knows how frequent the pieces were in training."""
    counts = train.counts(vocabulary, skip=1).double() + 1
    costs = -(counts / counts.sum()).log()
    rows = []
    for batch in test.batches(BATCH):
        mask = batch["mask"][:, 1:]
        rows.append(costs[batch["tokens"][:, 1:]].where(mask, 0).sum(1))
    return _by_document(torch.cat(rows), test.documents, numbers)


def _firsts(texts: Any) -> Tensor:
    """Number of each document of `texts.whole()`."""
    return texts.documents[texts.first_rows()]


def _groups(texts: Any, numbers: Tensor) -> Tensor | None:
    """Group of each document, such as the book that it is from, int64, shape (documents,); None where it is alone."""
    if texts.groups is None:
        return None
    rows = torch.isin(texts.documents, numbers).nonzero().flatten()
    groups = torch.zeros(len(numbers), dtype=torch.long)
    return groups.scatter_(0, torch.searchsorted(numbers, texts.documents[rows]), texts.groups[rows])


def _by_document(values: Tensor, documents: Tensor, numbers: Tensor) -> Tensor:
    """Sums over what belongs to one document, float64, shape (documents,)."""
    sums = torch.zeros(len(numbers), dtype=torch.double)
    return sums.index_add_(0, torch.searchsorted(numbers, documents.cpu()), values.double())


def _windows(text: bytes) -> np.ndarray:
    """Each byte with the two before it, int64, shape (3, bytes); a text follows two line feeds."""
    content = np.frombuffer(b"\n\n" + text, dtype=np.uint8).astype(np.int64)
    return np.stack([content[:-2], content[1:-1], content[2:]])
