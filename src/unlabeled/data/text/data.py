"""Texts: a sample is a text, and in training a block of the tokens or words of documents."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Unpack

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.digests import digest
from unlabeled.data.groups import joined
from unlabeled.data.samples import About, Batch, Data
from unlabeled.data.text.tokens import Encode, Tokens, Words, packed
from unlabeled.parts.vocabulary import splitter

__all__ = ["CHARACTERS_OF_A_TOKEN", "Texts", "as_bytes"]

MOST_BYTES = 4096
"""Bytes of a text that a batch gives out; `Texts.texts` has all of it."""
CHARACTERS_OF_A_TOKEN = 16
"""More characters than a token has on average, so that the start of a text can be encoded without the rest."""
FEWEST = 64
"""Samples that a small corpus is cut into, as training needs several steps and its metrics many."""
SHORTEST = 20
"""Words of a sample that is not cut further to have that many samples."""


class Texts(Data):
    """Texts, some of which may be parts of one document that follow each other.

    Args:
        texts: The texts.
        name: What the data is called in reports.
        paths: Where each text came from; numbers if None.
        documents: Number of the document that each text is a part of, int64, shape (samples,); the parts follow each
            other, and are read as one in training. None where every text is a document.
        segmenter: What cuts texts without spaces into words (see `vocabulary.segmenter`); None for none.
        **about: As in `Data`.
    """

    kind = "text"
    unit = "texts"
    group_unit = "documents"
    per_sample = ("documents", "rows")

    def __init__(
        self,
        texts: Sequence[str],
        *,
        name: str = "texts",
        paths: Sequence[str] | None = None,
        documents: Tensor | None = None,
        segmenter: str | None = None,
        **about: Unpack[About],
    ) -> None:
        paths = [f"{name}[{row}]" for row in range(len(texts))] if paths is None else paths
        super().__init__(name=name, paths=paths, **about)
        self.texts, self.segmenter = list(texts), segmenter
        self.rows = torch.arange(len(self.texts))
        """Row of each text in the source: parts of a document only follow each other where no row is missing."""
        self.documents = self.rows if documents is None else documents
        self.groups = documents if self.groups is None else self.groups
        assert len(self.texts) == len(self.paths) == len(self.documents)

    def batch(self, index: Tensor) -> Batch:
        """Give out texts as bytes.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `tokens` int64 (batch, length), UTF-8 bytes plus 1, at most 4,096 of them, 0 after the end; `mask` bool
            (batch, length), which are real; `index` int64 (batch,).
        """
        return self.on_device(as_bytes([self.texts[row] for row in index.tolist()]) | {"index": index})

    def whole(self) -> list[str]:
        """The documents: parts that follow each other, with a blank line between them."""
        rows = self.first_rows().tolist()
        return ["\n\n".join(self.texts[start:end]) for start, end in zip(rows, [*rows[1:], len(self)])]

    def first_rows(self) -> Tensor:
        """Row of the first text of each document of `whole`, int64, shape (documents,)."""
        new = torch.ones(len(self), dtype=torch.bool)
        new[1:] = (self.documents[1:] != self.documents[:-1]) | (self.rows[1:] != self.rows[:-1] + 1)
        return new.nonzero().flatten()

    def starts(self, encode: Encode, length: int, *, first: Sequence[int] = ()) -> Tokens:
        """The first tokens of every text: one sample each, with its labels, for evaluation.

        Args:
            encode: From texts to the numbers of their tokens.
            length: Most tokens of a sample.
            first: Tokens that every sample starts with.
        """
        check.at_least(len(first) + 1, length=length)
        heads = [text.strip()[: CHARACTERS_OF_A_TOKEN * length] for text in self.texts]
        ids, numbers, borders = packed(encode, heads, first)
        lengths = borders.diff().clamp_max(length)
        about = {"documents": self.documents, "name": self.name, "paths": self.paths, **self.about}
        return Tokens(ids, numbers, borders[:-1], lengths, texts=self.texts, **about).to(self.device)

    def blocks(
        self,
        encode: Encode,
        length: int,
        *,
        first: Sequence[int] = (),
        overlap: int = 0,
        fewest_sentences: int = 1,
    ) -> Tokens:
        """Consecutive tokens of one document, cut wherever a block is full, for training.

        A block ends only where it is full, not with a sentence: else the place where a pair of texts ends would reveal
        whether its second part was cut to the length of another.

        Args:
            encode: From texts to the numbers of their tokens.
            length: Most tokens of a block; only the last one of a document has fewer.
            first: Tokens that every document starts with.
            overlap: Tokens that a block has in common with the one before.
            fewest_sentences: Blocks that touch fewer sentences are omitted.

        Raises:
            ValueError: No block has that many sentences.
        """
        check.at_least(overlap + 1, length=length)
        ids, numbers, borders = packed(encode, self.whole(), first)
        step = length - overlap
        counts = (borders.diff() - overlap + step - 1).clamp(min=0) // step
        document = torch.arange(len(counts)).repeat_interleave(counts)
        place = torch.arange(len(document)) - (counts.cumsum(0) - counts)[document]
        begins = borders[document] + step * place
        ends = (begins + length).minimum(borders[document + 1])
        enough = numbers[ends - 1] - numbers[begins] + 1 >= fewest_sentences
        if not enough.any():
            raise UserError(
                f"{self.name} must have texts of at least {fewest_sentences} sentences, got none in {len(self)} texts"
            )
        rows = self.first_rows()[document[enough]]
        blocks = Tokens(
            ids,
            numbers,
            begins[enough],
            (ends - begins)[enough],
            documents=self.documents[rows],
            name=self.name,
            paths=[self.paths[row] for row in rows.tolist()],
            groups=self.groups_of(rows),
            skipped=self.skipped,
        )
        blocks.unit = "blocks"
        return blocks.to(self.device)

    def words(
        self, vocabulary: Sequence[str], length: int | None = None, segmenter: str | None = None
    ) -> Words:
        """The words of a vocabulary that occur in the texts; others are omitted, and the gaps closed.

        Args:
            vocabulary: Words in lower case by number.
            length: Words of a sample in training at most, where a sample may hold several documents, and its end may
                cut one; fewer where texts are so short that there would not be 64 samples. None makes a sample of each
                text, with its label, for evaluation.
            segmenter: What cut the texts into the words of the vocabulary, None for none.

        Raises:
            ValueError: No word of the texts is in the vocabulary.
        """
        numbers = {word: number for number, word in enumerate(vocabulary)}
        texts, split = self.texts if length is None else None, splitter(segmenter)
        parts = [
            torch.tensor([numbers[word] for word in split(content) if word in numbers], dtype=torch.int32)
            for content in texts or self.whole()
        ]
        sizes = torch.tensor([len(part) for part in parts], dtype=torch.int64)
        if not (total := int(sizes.sum())):
            raise UserError(f"{self.name} must hold words of the vocabulary, got none in {len(self)} texts")
        document = torch.arange(len(parts), dtype=torch.int32).repeat_interleave(sizes)
        if length is None:
            begins, lengths, paths, about = sizes.cumsum(0) - sizes, sizes, self.paths, self.about
        else:
            check.at_least(2, length=length)
            length = min(length, max(SHORTEST, -(-total // FEWEST)))
            begins = torch.arange(0, total, length)
            lengths = (total - begins).clamp_max(length)
            paths = [f"{self.name}, word {begin}" for begin in begins.tolist()]
            owners = self.groups_of(self.first_rows())[document.long()]
            groups = joined(torch.arange(total) // length, owners)[begins]
            about = About(groups=groups, skipped=self.skipped)
        words = Words(
            torch.cat(parts), document, begins, lengths, texts=texts, name=self.name, paths=paths, **about
        )
        return words.to(self.device)

    def _contents(self) -> Iterable[int]:
        # How white space is written, and which of two forms of Unicode a character has, do not count.
        return (digest(" ".join(unicodedata.normalize("NFC", text).split())) for text in self.texts)

    def _keep(self, rows: Tensor) -> None:
        super()._keep(rows)
        self.texts = [self.texts[row] for row in rows.tolist()]


def as_bytes(texts: Sequence[str]) -> Batch:
    """`tokens` and `mask` as `Texts.batch` gives them."""
    encoded = [text.encode()[:MOST_BYTES] for text in texts]
    tokens = torch.zeros(len(encoded), max(map(len, encoded), default=0), dtype=torch.int64)
    for row, content in enumerate(encoded):
        tokens[row, : len(content)] = torch.tensor(list(content), dtype=torch.int64) + 1
    return {"tokens": tokens, "mask": tokens > 0}
