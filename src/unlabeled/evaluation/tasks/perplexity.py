"""Prediction of unseen texts: how well a causal network predicts texts that it has not seen.

Perplexity is exp of the mean nats for each word piece: as many equally likely pieces would be as hard to predict. It
depends on the vocabulary, so networks with different ones compare by bits per byte: all bits over the bytes of the text
itself. Each piece is predicted once, from at most the network's window before it. Data without a test part of its own
is divided, with a warning: a network that was trained on all of it has seen the test texts.

The controls are a random twin; counts of the same pieces in the training part, alone and after the four before them
(with Kneser-Ney smoothing, the model that neural ones had to beat first); and for bits per byte gzip and counts of
bytes.
"""

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.tokenizer import END
from unlabeled.evaluation.byte_model import ByteModel, gzip_nats
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.kneser_ney import KneserNey, windows
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.methods.gpt import GPT
from unlabeled.progress import watched

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["TASK", "bits_per_byte", "measure", "per_piece", "surprise"]

BATCH = 64
ORDER = 5
"""Pieces of the longest sequences that are counted."""


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


class Documents(NamedTuple):
    """The test texts that have pieces to predict.

    Attributes:
        numbers: Their numbers, rising, int64, shape (documents,).
        pieces: Pieces of each, float64, shape (documents,).
        sizes: Bytes of each, float64, shape (documents,).
        groups: Group of each, int64, shape (documents,); None where each is alone.
        detail: What must be known of them.
    """

    numbers: Tensor
    pieces: Tensor
    sizes: Tensor
    groups: Tensor | None
    detail: str


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Perplexity and bits per byte of ours and of a random twin, beside counting and packing.

    Raises:
        ValueError: The encoder looks ahead, so that nothing is left to be predicted, or what predicts is missing.
    """
    encoder: Any = model.encoder
    train: Any = parts.train
    test: Any = parts.test
    networks = _networks(model, train)
    blocks, counted = encoder.blocks(test), encoder.blocks(train)
    texts = [text.encode() for text in test.whole()]
    documents = _documents(encoder, test, blocks, texts)
    if parts.source.is_divided():
        warning = f"a part of {test.name} cut off: no unseen texts for what was trained on all of it"
        documents = documents._replace(detail=f"{documents.detail}, {warning}")
        warnings.warn(f"perplexity is on {warning}", stacklevel=2)
    ours = {
        features: surprise(network, blocks, documents.numbers, model.device)
        for features, network in networks.items()
    }
    counts, rows = ByteModel([text.encode() for text in train.whole()]), _firsts(test)
    packed = {
        "gzip -9": gzip_nats(texts),
        "byte unigram": torch.tensor([counts.nats(text, 1) for text in texts]),
        "byte trigram": torch.tensor([counts.nats(text, 3) for text in texts]),
    }
    packed = {name: _by_document(nats, rows, documents.numbers) for name, nats in packed.items()}
    unigram = _unigram(counted, blocks, encoder, documents.numbers)
    ngrams = {f"Kneser-Ney {ORDER}-grams": _ngrams(counted, blocks, encoder, documents.numbers)}
    return [
        _measurement(unit, features, nats, documents, model.seed)
        for unit, controls in {"perplexity": {"piece unigram": unigram}, "bits per byte": packed}.items()
        for features, nats in (ours | controls | ngrams).items()
    ]


def _networks(model: EvaluatedModel, train: Any) -> dict[str, Any]:
    """What predicts pieces, ours and a random twin; each has a `surprise`."""
    encoder: Any = model.encoder
    family, twin = getattr(encoder, "family", None), model.untrained()
    if family == "gpt":
        return {"unlabeled": GPT(encoder), "random": GPT(twin)}  # type: ignore[arg-type]
    name = encoder.config.get("name", type(encoder).__name__)
    if family is None or not encoder.causal:
        raise UserError(f"perplexity needs a causal encoder, such as gpt-mini, got {name}")
    if not hasattr(model.method, "surprise"):
        raise UserError(
            f"perplexity of {name} needs the run or method whose head predicts, got the encoder alone"
        )
    return {"unlabeled": model.method, "random": model.untrained_method(train)}


def _documents(encoder: Any, test: Any, blocks: Any, texts: list[bytes]) -> Documents:
    numbers = blocks.documents.unique()
    sizes = _by_document(torch.tensor([len(text) for text in texts]), _firsts(test), numbers)
    pieces = _by_document(blocks.lengths - encoder.overlap, blocks.documents, numbers)
    detail = f"{int(pieces.sum())} pieces of {encoder.vocabulary}, {int(sizes.sum())} bytes, window of {encoder.length}"
    return Documents(numbers, pieces, sizes, _groups(test, numbers), detail)


@torch.no_grad()
def surprise(method: Any, blocks: "Data", numbers: Tensor, device: torch.device) -> Tensor:
    """Nats of each document, float64, shape (documents,).

    Args:
        method: The network with its head, such as GPT.
        blocks: All pieces of the documents, as the encoder's `blocks` gives them.
        numbers: Numbers of the documents, rising, int64, shape (documents,).
        device: Where to compute.
    """
    method.to(device).eval()
    batches = watched(blocks.to(device).batches(BATCH), -(-len(blocks) // BATCH), "perplexity", "batches")
    nats = [method.surprise(batch).double().sum(1) for batch in batches]
    return _by_document(torch.cat(nats).cpu(), blocks.documents, numbers)  # type: ignore[attr-defined]


def _measurement(unit: str, features: str, nats: Tensor, documents: Documents, seed: int) -> Measurement:
    statistic: Callable[[Tensor, Tensor], float] = bits_per_byte
    sizes, least, groups = documents.sizes, 0.0, documents.groups
    if unit == "perplexity":
        statistic, sizes, least = per_piece, documents.pieces, 1.0
    value, left_out = leave_one_out(
        lambda rows: statistic(nats[rows], sizes[rows]), len(nats), groups, sizes=sizes, seed=seed
    )
    alone = groups is None or len(groups.unique()) == len(nats)
    return Measurement(
        "perplexity", features, torch.tensor([[value]]), detail=documents.detail, unit=unit, better="lower",
        left_out=left_out, counted="documents" if alone else "groups of documents", samples=len(nats),
        bounds=(least, math.inf),
    )  # fmt: skip


def _unigram(train: Any, test: Any, encoder: Any, numbers: Tensor) -> Tensor:
    """Nats of each document by the frequencies of pieces in training, float64, shape (documents,)."""
    counts = train.counts(encoder.vocabulary, skip=encoder.overlap).double() + 1
    costs = -(counts / counts.sum()).log()
    places, documents = _predicted(test, encoder.overlap)
    return _by_document(costs[test.ids[places].long()], documents, numbers)


def _ngrams(train: Any, test: Any, encoder: Any, numbers: Tensor) -> Tensor:
    """Nats of each document by the pieces that followed the same ones in training, float64, shape (documents,)."""
    end, rows = encoder.special(END), []
    for blocks in (train, test):
        places, _ = _predicted(blocks, encoder.overlap)
        rows.append(windows(blocks.ids.numpy().astype(np.int64), places.numpy(), ORDER, end))
    nats = -np.log(KneserNey(rows[0], encoder.vocabulary).probabilities(rows[1]))
    return _by_document(torch.from_numpy(nats), _predicted(test, encoder.overlap)[1], numbers)


def _predicted(blocks: Any, overlap: int) -> tuple[Tensor, Tensor]:
    """Places of the predicted pieces in the row of all, and the document of each, int64, shape (pieces,) both."""
    sizes = blocks.lengths - overlap
    block = torch.arange(len(sizes)).repeat_interleave(sizes)
    offset = torch.arange(len(block)) - (sizes.cumsum(0) - sizes)[block]
    return blocks.begins[block] + overlap + offset, blocks.documents[block]


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


def _open(source: Source) -> Parts:
    return source.of_kind("text").open()


TASK = Task(measure, _open, kinds=("text",))
