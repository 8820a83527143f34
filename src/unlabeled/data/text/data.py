"""Texts: a sample is a text, and in training a block of tokens of one document.

A text's sentences end after `.`, `!` or `?` (with closing quotes and brackets) where white space and a capital letter
or a digit follow, after `。`, `！` or `？`, and at blank lines; not after initials and common abbreviations such as
`Mr.` or `e.g.`.

What can be opened, in UTF-8 or in an encoding that is found out (see `encodings`), packed by gzip, bzip2 or zstd too:
a folder of .txt files (or .md), one text each, perhaps in class folders, and these perhaps in split folders;
one .txt file, whose paragraphs (lines, where there is no blank line) are gathered into texts of 2,000 characters or
more;
.tsv or .csv files, whatever stands between their cells, with names above their columns or without;
.jsonl, .json (a list, an object that holds one, or columns) or .parquet files of records or texts;
`hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, a data set on the Hugging Face hub;
`topics`, built in: passages of Python's manual (see `worlds.topics`).
Which columns hold the texts and the classes is told by their names and contents (see `columns`), said, and can be
given. Tables, JSON and parquet files are splits by their names: train.tsv, test.tsv. Of several kinds in a folder,
that with the most bytes is read.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.digests import digest
from unlabeled.data.labels import numbered
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import About, Batch, Data
from unlabeled.data.text.encodings import Errors
from unlabeled.data.text.read import Reader, Rows, find_hub_texts, find_texts
from unlabeled.data.text.words import Words

__all__ = ["Texts", "Tokens", "built_in", "find", "sentences"]

MOST_BYTES = 4096
"""Bytes of a text that a batch gives out; `Texts.texts` has all of it."""
CHARACTERS_OF_A_TOKEN = 16
"""More characters than a token has on average, so that the start of a text can be encoded without the rest."""

ENCODED_AT_ONCE = 32
"""Texts whose sentences are encoded together."""

Encode = Callable[[list[str]], list[list[int]]]

_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "st", "mt", "prof", "rev", "hon", "capt", "col", "gen", "lt", "jr", "sr"),
    *("vs", "no", "vol", "fig", "e.g", "i.e", "cf", "al"),
}
_LONGEST_ABBREVIATION = 8
_BORDER = re.compile(r"""\n\s*\n|[。！？]+|(?<![.!?])[.!?]++["'”’)\]_*]*+(?=\s+["'“‘(\[_*]*(\w))""")


def sentences(text: str) -> list[str]:
    """Sentences of a text; white space between two belongs to the second.

    Returns:
        Pieces that put together are the text again.
    """
    borders, end = [0], len(text.rstrip())
    for match in _BORDER.finditer(text):
        if following := match.group(1):
            if not (following.isupper() or following.isdigit()):
                continue
            if match.group() == "." and _abbreviated(
                text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
            ):
                continue
        border = match.start() if match.group().isspace() else match.end()
        if border < end and text[borders[-1] : border].strip():
            borders.append(border)
    return [text[start:end] for start, end in zip(borders, [*borders[1:], len(text)])]


def _abbreviated(text: str) -> bool:
    """Whether a text ends with an initial or an abbreviation."""
    word = re.split(r"""[\s"'“‘(\[_*]""", text)[-1]
    return (len(word) == 1 and word.isupper()) or word.lower() in _ABBREVIATIONS


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
        rows = torch.arange(len(self.texts))
        self.documents = rows if documents is None else documents
        self.groups = documents if self.groups is None else self.groups
        self.places = rows
        """Row of each text in the source: parts of a document only follow each other where no row is left out."""
        assert len(self.texts) == len(self.paths) == len(self.documents)

    def batch(self, index: Tensor) -> Batch:
        """Give out texts as bytes.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `tokens` int64 (batch, length), UTF-8 bytes plus 1, at most 4,096 of them, 0 after the end; `mask` bool
            (batch, length), which are real; `index` int64 (batch,).
        """
        encoded = [self.texts[row].encode()[:MOST_BYTES] for row in index.tolist()]
        tokens = torch.zeros(len(encoded), max(map(len, encoded), default=0), dtype=torch.int64)
        for row, content in enumerate(encoded):
            tokens[row, : len(content)] = torch.tensor(list(content), dtype=torch.int64) + 1
        return self.on_device({"tokens": tokens, "mask": tokens > 0, "index": index})

    def digests(self) -> Tensor:
        """As in `Data`; how white space is written, and characters that Unicode knows in two forms, do not count."""
        texts = (" ".join(unicodedata.normalize("NFC", text).split()) for text in self.texts)
        return torch.tensor([digest(text) for text in texts], dtype=torch.int64)

    def whole(self) -> list[str]:
        """The documents, parts that follow each other put together with a blank line between them."""
        rows = self.first_rows().tolist()
        return ["\n\n".join(self.texts[start:end]) for start, end in zip(rows, [*rows[1:], len(self)])]

    def starts(self, encode: Encode, length: int, *, first: Sequence[int] = ()) -> "Tokens":
        """The first tokens of every text: one sample each, with its labels, for evaluation.

        Args:
            encode: From texts to the numbers of their tokens.
            length: Most tokens of a sample.
            first: Tokens that every sample starts with.
        """
        check.at_least(len(first) + 1, length=length)
        characters = CHARACTERS_OF_A_TOKEN * length
        packed = _Packed(first)
        for tokens in _encoded(encode, [text.strip()[:characters] for text in self.texts]):
            packed.add(tokens)
        ends = torch.tensor(packed.borders[1:])
        begins = torch.tensor(packed.borders[:-1])
        return Tokens(
            *packed.tensors(),
            begins,
            torch.minimum(ends - begins, torch.tensor(length)),
            documents=self.documents,
            name=self.name,
            paths=self.paths,
            **self.about,
        ).to(self.device)

    def blocks(
        self,
        encode: Encode,
        length: int,
        *,
        first: Sequence[int] = (),
        overlap: int = 0,
        fewest_sentences: int = 1,
    ) -> "Tokens":
        """Consecutive tokens of one document, cut wherever a block is full, for training.

        A block does not end with a sentence but when it is full: else where a pair of texts ends would tell whether
        its second part was cut to the length of another.

        Args:
            encode: From texts to the numbers of their tokens.
            length: Most tokens of a block; only the last one of a document has fewer.
            first: Tokens that every document starts with.
            overlap: Tokens that a block shares with the one before.
            fewest_sentences: Blocks that touch fewer sentences are left out.

        Raises:
            ValueError: No block has that many sentences.
        """
        check.at_least(overlap + 1, length=length)
        packed = _Packed(first)
        for tokens in _encoded(encode, self.whole()):
            packed.add(tokens)
        begins, ends, owners = [], [], []
        for row, start, end in zip(self.first_rows().tolist(), packed.borders, packed.borders[1:]):
            for begin in range(start, max(end - overlap, start + 1), length - overlap):
                begins.append(begin)
                ends.append(min(begin + length, end))
                owners.append(row)
        ids, numbers = packed.tensors()
        begin, end, rows = torch.tensor(begins), torch.tensor(ends), torch.tensor(owners)
        keep = end - begin > overlap
        begin, end, rows = begin[keep], end[keep], rows[keep]
        keep = numbers[end - 1] - numbers[begin] + 1 >= fewest_sentences
        if not keep.any():
            raise UserError(
                f"{self.name} must have texts of at least {fewest_sentences} sentences, got none in {len(self)} texts"
            )
        begin, end, rows = begin[keep], end[keep], rows[keep]
        return Tokens(
            ids,
            numbers,
            begin,
            end - begin,
            documents=self.documents[rows],
            name=self.name,
            paths=[self.paths[row] for row in rows.tolist()],
            groups=self.groups_of(rows),
            skipped=self.skipped,
        ).to(self.device)

    def words(
        self, vocabulary: Sequence[str], length: int | None = None, segmenter: str | None = None
    ) -> Words:
        """The words of a vocabulary that stand in the texts.

        Args:
            vocabulary: The words, by their number.
            length: Words of a stretch, which runs on over the documents, for training; None for one sample for each
                text.
            segmenter: What cut the texts into the words of the vocabulary.
        """
        return Words.of(self, vocabulary, length, segmenter)

    def first_rows(self) -> Tensor:
        """Row of the first text of each document of `whole`, int64, shape (documents,)."""
        new = torch.ones(len(self), dtype=torch.bool)
        new[1:] = (self.documents[1:] != self.documents[:-1]) | (self.places[1:] != self.places[:-1] + 1)
        return new.nonzero().flatten()

    def _keep(self, rows: Tensor) -> None:
        self.texts = [self.texts[row] for row in rows.tolist()]
        self.documents, self.places = self.documents[rows], self.places[rows]


class Tokens(Data):
    """Stretches of one long row of tokens.

    Args:
        ids: Numbers of all tokens, int32, shape (tokens,).
        numbers: Number of the sentence that each token belongs to, int32, shape (tokens,), falling nowhere within
            a document.
        begins: Where each sample starts in `ids`, int64, shape (samples,).
        lengths: Tokens of each sample, int64, shape (samples,).
        documents: Number of the document that each sample comes from, int64, shape (samples,).
        name: What the data is called in reports.
        paths: Where each sample came from.
        **about: As in `Data`.
    """

    kind = "text"
    unit = "texts"
    group_unit = "documents"

    def __init__(
        self,
        ids: Tensor,
        numbers: Tensor,
        begins: Tensor,
        lengths: Tensor,
        *,
        documents: Tensor,
        name: str,
        paths: Sequence[str],
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        assert len(ids) == len(numbers) and len(begins) == len(lengths) == len(documents) == len(self)
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
            (batch,); `index` int64 (batch,).
        """
        index = index.to(self.device)
        begins, lengths = self.begins[index], self.lengths[index]
        place = torch.arange(int(lengths.max()), device=self.device)
        mask = place < lengths[:, None]
        last = len(self.ids) - 1  # where a last sample without tokens would start is behind it
        places = (begins[:, None] + place).clamp_max(last)
        sentence = self.numbers[places] - self.numbers[begins.clamp_max(last)][:, None]
        return {
            "tokens": self.ids[places].long().where(mask, 0),
            "mask": mask,
            "sentence": sentence.long().where(mask, -1),
            "document": self.documents[index],
            "index": index,
        }

    def digests(self) -> Tensor:
        ids, spans = self.ids.cpu(), zip(self.begins.tolist(), self.lengths.tolist())
        return torch.tensor(
            [digest(ids[begin : begin + length]) for begin, length in spans], dtype=torch.int64
        )

    def counts(self, vocabulary: int, skip: int = 0) -> Tensor:
        """How often each token stands in the samples.

        Args:
            vocabulary: Number of tokens that there are.
            skip: First tokens of each sample that are not counted.

        Returns:
            Int64, shape (vocabulary,).
        """
        edges = torch.zeros(len(self.ids) + 1, dtype=torch.int64, device=self.device)
        one, first = torch.ones_like(self.begins), self.lengths.clamp_max(skip)
        edges.index_add_(0, self.begins + first, one).index_add_(0, self.begins + self.lengths, -one)
        return torch.zeros(vocabulary, dtype=torch.int64, device=self.device).index_add_(
            0, self.ids.long(), edges.cumsum(0)[:-1]
        )

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there."""
        moved = super().to(device)
        for name in ("ids", "numbers", "begins", "lengths", "documents"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def _keep(self, rows: Tensor) -> None:
        rows = rows.to(self.device)
        self.begins, self.lengths = self.begins[rows], self.lengths[rows]
        self.documents = self.documents[rows]


def find(source: Any, how: OpenOptions, *, errors: Errors = "replace") -> Mapping[str, Callable[[], Texts]]:
    """What opens each split of texts, by the split's name; "all" where it has none.

    Args:
        source: What the module names.
        how: OpenOptions it is opened.
        errors: What happens to bytes that cannot be decoded, which are listed in `skipped` with the place of the
            first in any case: "replace" puts U+FFFD for each, "skip" leaves the text out.

    Raises:
        ValueError: No text is there.
    """
    check.choice(("replace", "skip"), errors=errors)
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"texts must be a path or a name, or Texts, got {type(source).__name__}")
    name = os.fspath(source)
    reader = Reader(name, errors, how.encoding, how.text_column, how.label)
    if name.startswith("hub:"):
        read = find_hub_texts(name.removeprefix("hub:"), reader)
    else:
        read = find_texts(Path(name).expanduser(), reader)
    return {split: lambda rows=rows: _opened(rows(), name, how) for split, rows in read.items()}


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Texts:
    """Open `topics`, the prose of Python's manual.

    Args:
        name: "topics".
        split: "train" or "test".
    """
    from unlabeled.worlds import topics

    check.choice(("topics",), data=name)
    check.choice(("train", "test"), split=split)
    passages = topics.make(split)
    documents = torch.tensor(passages.documents)
    return Texts(
        passages.texts,
        name=name,
        paths=[f"topics/{topic}[{row}]" for row, topic in enumerate(passages.topics)],
        labels=torch.tensor(passages.labels),
        classes=list(topics.GROUPS),
        factors={"topic": documents},
        documents=documents,
    )


def _opened(rows: Rows, name: str, how: OpenOptions) -> Texts:
    if not rows.texts and not rows.broken:
        raise UserError(f"{name} must hold texts, got only empty ones")
    refuse_broken(name, rows.broken, len(rows.texts), how.max_broken)
    known = numbered(rows.labels, rows.classes)
    return Texts(
        rows.texts,
        name=name,
        paths=rows.paths,
        labels=known.tensor,
        classes=known.classes,
        skipped=rows.skipped + known.skipped(name),
        segmenter=how.segmenter,
    )


class _Packed:
    """Tokens of many texts in one row, with the numbers of their sentences."""

    def __init__(self, first: Sequence[int]) -> None:
        self.first = list(first)
        self.ids: list[Tensor] = []
        self.numbers: list[Tensor] = []
        self.borders = [0]

    def add(self, tokens: list[list[int]]) -> None:
        """Append the sentences of one text."""
        tokens = [sentence for sentence in tokens if sentence] or [[]]
        tokens = [self.first + tokens[0], *tokens[1:]]
        lengths = torch.tensor([len(sentence) for sentence in tokens])
        self.ids.append(torch.tensor([token for sentence in tokens for token in sentence], dtype=torch.int32))
        self.numbers.append(torch.arange(len(tokens), dtype=torch.int32).repeat_interleave(lengths))
        self.borders.append(self.borders[-1] + int(lengths.sum()))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Tokens and sentences of all texts, int32, shape (tokens,) each."""
        return torch.cat(self.ids), torch.cat(self.numbers)


def _encoded(encode: Encode, texts: list[str]) -> Iterator[list[list[int]]]:
    """Tokens of each sentence of each text; not of all texts at once, which would take much memory."""
    for begin in range(0, len(texts), ENCODED_AT_ONCE):
        parts = [sentences(text) for text in texts[begin : begin + ENCODED_AT_ONCE]]
        tokens = encode([sentence for part in parts for sentence in part])
        ends = accumulate(map(len, parts))
        yield from (tokens[end - len(part) : end] for part, end in zip(parts, ends))
