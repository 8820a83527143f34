"""Samples that are spans of one long row of tokens: of pieces of words, or of the words of a vocabulary."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Self, Unpack

import torch
from torch import Tensor

from unlabeled.data.digests import digest
from unlabeled.data.samples import Batch, Data, Samples
from unlabeled.data.text.sentences import sentences

__all__ = ["Encode", "Tokens", "Words", "packed"]

Encode = Callable[[list[str]], list[list[int]]]
"""From texts to the numbers of their tokens."""

ENCODED_AT_ONCE = 32
"""Texts whose sentences are encoded together."""


class Tokens(Data):
    """Stretches of one long row of tokens.

    Args:
        ids: Numbers of all tokens, int32, shape (tokens,).
        numbers: Number of the sentence that each token belongs to, int32, shape (tokens,), never decreasing within a
            sample.
        begins: Where each sample starts in `ids`, int64, shape (samples,).
        lengths: Tokens of each sample, int64, shape (samples,).
        documents: Number of the document that each sample comes from, int64, shape (samples,); None where a sample may
            hold several.
        texts: The whole text of each sample, where it is one text; the tokens may be its start only.
        **about: Name, paths, labels and so on, as in `Data`.
    """

    kind = "text"
    unit = "texts"
    group_unit = "documents"
    per_sample = ("begins", "lengths", "documents")

    def __init__(
        self,
        ids: Tensor,
        numbers: Tensor,
        begins: Tensor,
        lengths: Tensor,
        *,
        documents: Tensor | None = None,
        texts: Sequence[str] | None = None,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(**about)
        self.texts = None if texts is None else list(texts)
        assert len(ids) == len(numbers) and len(begins) == len(lengths) == len(self)
        self.ids, self.numbers = ids, numbers
        self.begins, self.lengths, self.documents = begins, lengths, documents

    @property
    def shape(self) -> dict[str, int]:
        return {"length": int(self.lengths.max()) if len(self) else 0}

    def batch(self, index: Tensor) -> Batch:
        """Give out tokens.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `tokens` int64 (batch, length), 0 after the end of a sample; `mask` bool (batch, length), which are real;
            `sentence` int64 (batch, length), number of the sentence in the sample, -1 after its end; `document` int64
            (batch,), where a sample comes from one; `index` int64 (batch,).
        """
        index = index.to(self.device)
        begins, lengths = self.begins[index], self.lengths[index]
        offset = torch.arange(int(lengths.max()), device=self.device)
        mask = offset < lengths[:, None]
        last = len(self.ids) - 1  # a last sample without tokens would start after it
        positions = (begins[:, None] + offset).clamp_max(last)
        sentence = self.numbers[positions] - self.numbers[begins.clamp_max(last)][:, None]
        batch = {
            "tokens": self.ids[positions].long().where(mask, 0),
            "mask": mask,
            "sentence": sentence.long().where(mask, -1),
            "index": index,
        }
        return batch if self.documents is None else batch | {"document": self.documents[index]}

    def counts(self, vocabulary: int, skip: int = 0) -> Tensor:
        """How often each token occurs in the samples.

        Args:
            vocabulary: Number of different tokens.
            skip: First tokens of each sample that are not counted.

        Returns:
            Int64, shape (vocabulary,).
        """
        edges = torch.zeros(len(self.ids) + 1, dtype=torch.int64, device=self.device)
        one, first = torch.ones_like(self.begins), self.lengths.clamp_max(skip)
        edges.index_add_(0, self.begins + first, one).index_add_(0, self.begins + self.lengths, -one)
        counts = torch.zeros(vocabulary, dtype=torch.int64, device=self.device)
        return counts.index_add_(0, self.ids.long(), edges.cumsum(0)[:-1])

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there."""
        moved = super().to(device)
        for name in ("ids", "numbers", *self.per_sample):
            if (values := getattr(self, name)) is not None:
                setattr(moved, name, values.to(device))
        return moved

    def _keep(self, rows: Tensor) -> None:
        super()._keep(rows)
        self.texts = None if self.texts is None else [self.texts[row] for row in rows.tolist()]

    def _contents(self) -> Iterable[int]:
        ids, spans = self.ids.cpu(), zip(self.begins.tolist(), self.lengths.tolist())
        return (digest(ids[begin : begin + length]) for begin, length in spans)


class Words(Tokens):
    """Sequences of the words of a vocabulary, whose sentences are the documents; see `Texts.words`."""

    unit = "word sequences"


def packed(encode: Encode, texts: Sequence[str], first: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of many texts in one row.

    Args:
        encode: From texts to the numbers of their tokens.
        texts: The texts.
        first: Tokens that every text starts with.

    Returns:
        The tokens and the number of the sentence of each, int32, shape (tokens,), and where each text starts and the
        last one ends, int64, shape (texts + 1,).
    """
    ids, numbers, borders = [], [], [0]
    for pieces in _encoded(encode, texts):
        start, *others = [piece for piece in pieces if piece] or [[]]
        pieces = [[*first, *start], *others]
        lengths = torch.tensor([len(piece) for piece in pieces])
        ids.append(torch.tensor([token for piece in pieces for token in piece], dtype=torch.int32))
        numbers.append(torch.arange(len(pieces), dtype=torch.int32).repeat_interleave(lengths))
        borders.append(borders[-1] + len(ids[-1]))
    return torch.cat(ids), torch.cat(numbers), torch.tensor(borders)


def _encoded(encode: Encode, texts: Sequence[str]) -> Iterable[list[list[int]]]:
    """Tokens of each sentence of each text; not of all texts at once, which would take much memory."""
    for begin in range(0, len(texts), ENCODED_AT_ONCE):
        parts = [sentences(text) for text in texts[begin : begin + ENCODED_AT_ONCE]]
        tokens = encode([sentence for part in parts for sentence in part])
        ends = accumulate(map(len, parts))
        yield from (tokens[end - len(part) : end] for part, end in zip(parts, ends))
