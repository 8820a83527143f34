"""Words of a vocabulary: in training a sample is a long stretch of them, cut wherever it is full."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.digests import digest
from unlabeled.data.groups import joined
from unlabeled.data.samples import About, Batch, Data
from unlabeled.parts.vocabulary import splitter

if TYPE_CHECKING:
    from unlabeled.data.text.data import Texts

__all__ = ["Words"]

FEWEST = 64
"""Samples that a small corpus is cut into, as the steps of a training need several and its meters many."""
SHORTEST = 20
"""Words of a sample that are not cut further to have that many."""


class Words(Data):
    """Stretches of the words of many documents, one document after the other.

    Args:
        ids: Words by their number in the vocabulary, int32, shape (words,).
        documents: Number of the document that each word stands in, int32, shape (words,), never falling.
        begins: Where each sample starts in `ids`, int64, shape (samples,).
        lengths: Words of each sample, int64, shape (samples,).
        name: What the data is called in reports.
        paths: Where each sample came from.
        **about: As in `Data`.
    """

    kind = "text"
    unit = "stretches of words"
    group_unit = "documents"

    def __init__(
        self,
        ids: Tensor,
        documents: Tensor,
        begins: Tensor,
        lengths: Tensor,
        *,
        name: str,
        paths: Sequence[str],
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        assert len(ids) == len(documents) and len(begins) == len(lengths) == len(self)
        self.ids, self.documents, self.begins, self.lengths = ids, documents, begins, lengths

    @classmethod
    def of(
        cls,
        texts: "Texts",
        vocabulary: Sequence[str],
        length: int | None = None,
        segmenter: str | None = None,
    ) -> "Words":
        """The words of a vocabulary that stand in texts; others are left out, and the gaps closed.

        Args:
            texts: The texts; `texts.whole()` are the documents.
            vocabulary: Words in lower case by number.
            length: Words of a sample in training at most, where a sample may hold several documents, and its end
                may cut one; fewer where texts are so short that there would not be 64 samples. None makes a sample
                of each text, with its label, for evaluation.
            segmenter: What cut the texts into the words of the vocabulary, None for none.

        Raises:
            ValueError: No word of the texts is in the vocabulary.
        """
        numbers = {word: number for number, word in enumerate(vocabulary)}
        contents, split = texts.texts if length is None else texts.whole(), splitter(segmenter)
        parts = [
            np.array([numbers[word] for word in split(content) if word in numbers], np.int32)
            for content in contents
        ]
        sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        total = int(sizes.sum())
        if total == 0:
            raise UserError(f"{texts.name} must hold words of the vocabulary, got none in {len(texts)} texts")
        ids = torch.from_numpy(np.concatenate(parts))
        documents = torch.arange(len(parts), dtype=torch.int32).repeat_interleave(sizes)
        if length is None:
            begins, lengths = sizes.cumsum(0) - sizes, sizes
            paths, about = texts.paths, texts.about
        else:
            check.at_least(2, length=length)
            length = min(length, max(SHORTEST, -(-total // FEWEST)))
            begins = torch.arange(0, total, length)
            lengths = (total - begins).clamp_max(length)
            paths = [f"{texts.name}, word {begin}" for begin in begins.tolist()]
            owners = texts.groups_of(texts.first_rows())[documents.long()]
            shared = joined(torch.arange(total) // length, owners)
            about = About(groups=shared[begins], skipped=texts.skipped)
        words = cls(ids, documents, begins, lengths, name=texts.name, paths=paths, **about)
        return words.to(texts.device)

    @property
    def shape(self) -> dict[str, int]:
        return {"length": int(self.lengths.max()) if len(self) else 0}

    def batch(self, index: Tensor) -> Batch:
        """Give out stretches.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `tokens` int64 (batch, length), 0 after the end of a sample; `mask` bool (batch, length), which are words;
            `sentence` int64 (batch, length), number of the document inside the sample, -1 after its end; `index` int64
            (batch,).
        """
        index = index.to(self.device)
        begins, lengths = self.begins[index], self.lengths[index]
        place = torch.arange(int(lengths.max()), device=self.device)
        mask = place < lengths[:, None]
        places = (begins[:, None] + place).clamp_max(len(self.ids) - 1)
        sentence = self.documents[places] - self.documents[begins.clamp_max(len(self.ids) - 1)][:, None]
        return {
            "tokens": self.ids[places].long().where(mask, 0),
            "mask": mask,
            "sentence": sentence.long().where(mask, -1),
            "index": index,
        }

    def digests(self) -> Tensor:
        ids, spans = self.ids.cpu(), zip(self.begins.tolist(), self.lengths.tolist())
        return torch.tensor(
            [digest(ids[begin : begin + length]) for begin, length in spans], dtype=torch.int64
        )

    def counts(self, words: int) -> Tensor:
        """How often each of `words` words stands in the samples, int64, shape (words,)."""
        edges = torch.zeros(len(self.ids) + 1, dtype=torch.int64, device=self.device)
        one = torch.ones_like(self.begins)
        edges.index_add_(0, self.begins, one).index_add_(0, self.begins + self.lengths, -one)
        counts = torch.zeros(words, dtype=torch.int64, device=self.device)
        return counts.index_add_(0, self.ids.long(), edges.cumsum(0)[:-1])

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there."""
        moved = super().to(device)
        for name in ("ids", "documents", "begins", "lengths"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def _keep(self, rows: Tensor) -> None:
        rows = rows.to(self.device)
        self.begins, self.lengths = self.begins[rows], self.lengths[rows]
