"""Encoders of texts that have a vector for each word; a text is the mean of its words."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders.encoder import Encoder
from unlabeled.files import atomic
from unlabeled.parts.vocabulary import count_words, unspaced

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "WordEncoder", "build", "fitted"]

NAMES = ("words-100", "words-50", "words-300")
LINE = 16
"""Rows of the table are padded to a multiple of so many numbers: whole cache lines."""
RAW_WORDS = 1024
MIN_COUNT = 5
LOOKED_AT, MOST_UNSPACED = 1000, 0.1
"""Texts that are searched for scripts without spaces, and the fraction of letters above which a warning is given."""
_log = logging.getLogger("unlabeled.encoders")


class Frequencies(nn.Module):
    """Fraction of the corpus that each word has.

    Args:
        words: Size of the vocabulary.
    """

    shares: Tensor

    def __init__(self, words: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((words,), 1 / words))


class Table(nn.Module):
    """Vectors of words, small random numbers before training; rows are padded with zeros.

    Args:
        words: Size of the vocabulary.
        dim: Width of a vector.
    """

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        rows = torch.zeros(words, -(-dim // LINE) * LINE)
        rows[:, :dim] = (torch.rand(words, dim) - 0.5) / dim
        self.rows = nn.Parameter(rows)


class WordEncoder(Encoder):
    """Vectors of the words of a vocabulary.

    The feature of a text is the mean of the vectors of its known words, less the mean over the corpus; 0 where it has
    none.

    Args:
        config: `kind`, `name` such as words-100, `vocabulary`, the words by number, and perhaps `segmenter`.
    """

    kind = "words"
    raw_detail = f"ln(1 + count) of the {RAW_WORDS:,} most frequent words, as a unit vector"

    def __init__(self, config: dict[str, Any]) -> None:
        dim, _ = _numbers(config["name"])
        super().__init__(config, dim, {"words": dim})
        self.vocabulary: list[str] = list(config["vocabulary"])
        self.adapt, self.trunk = Frequencies(len(self.vocabulary)), Table(len(self.vocabulary), dim)
        self.numbers = {word: number for number, word in enumerate(self.vocabulary)}
        """Number of each word in the vocabulary and row of its vector."""

    @property
    def rows(self) -> nn.Parameter:
        """Vectors by number of the word, padded with zeros, float, shape (words, padded dim)."""
        return self.trunk.rows

    @property
    def vectors(self) -> Tensor:
        """Vectors by number of the word, float, shape (words, dim); a view."""
        return self.rows.detach()[:, : self.dim]

    def evaluation_view(self, data: "Data", length: int | None = None) -> "Data":
        """Texts as words of the vocabulary.

        Args:
            data: `Texts`; words are returned as they are.
            length: Words of a sample, across texts; None for a sample of each text.
        """
        words = getattr(data, "words", None)
        return data if words is None else words(self.vocabulary, length, self.config.get("segmenter"))

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Words and which of them are real, int64 and bool, shape (batch, length) each."""
        return batch["tokens"], batch["mask"]

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """Mean vectors of texts, float, shape (batch, dim)."""
        tokens, mask = x
        if tokens.shape[1] == 0:  # texts without a word, which the sum of vectors cannot take
            tokens, mask = (F.pad(rows, (0, 1)) for rows in (tokens, mask))
        weights = mask.to(self.rows.dtype) / mask.sum(1, keepdim=True).clamp_min(1)
        mean = F.embedding_bag(tokens, self.rows, mode="sum", per_sample_weights=weights)
        # What all texts have in common would hide what distinguishes them.
        centred = mean - mask.any(1, keepdim=True) * (self.adapt.shares @ self.rows)
        return centred[:, : self.dim]

    def features(self, x: tuple[Tensor, Tensor], layer: str | None = None) -> Tensor:
        """Mean vectors of texts; the one layer, words, is the same."""
        check.choice((None, *self.map_dims), layer=layer)
        return self(x)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Counts of the frequent words in each text, float, shape (batch, words)."""
        tokens, mask = self.inputs(batch)
        width = min(RAW_WORDS, len(self.vocabulary))
        counts = torch.zeros(len(tokens), width + 1, device=tokens.device)
        counts.scatter_add_(1, tokens.clamp_max(width), mask.to(counts.dtype))
        return F.normalize(counts[:, :width].log1p(), dim=1)

    def nearest(self, word: str, count: int = 10) -> list[tuple[str, float]]:
        """Words with the most similar vectors and their cosines, best first.

        Args:
            word: In lower case.
            count: Most words to return.

        Raises:
            ValueError: The word is not in the vocabulary.
        """
        check.at_least(1, count=count)
        if word not in self.numbers:
            raise UserError(f"word must be in the vocabulary of {len(self.vocabulary)} words, got {word}")
        units = F.normalize(self.vectors, dim=1)
        cosines = units @ units[self.numbers[word]]
        cosines[self.numbers[word]] = -torch.inf
        best = cosines.topk(min(count, len(self.vocabulary) - 1))
        return [
            (self.vocabulary[row], value) for value, row in zip(best.values.tolist(), best.indices.tolist())
        ]

    def save_word2vec(self, path: str | os.PathLike[str]) -> None:
        """Write the vectors in word2vec's text format, whole or not at all.

        `gensim.models.KeyedVectors.load_word2vec_format(path)` reads it, as do most tools for word vectors.
        """
        with atomic(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f"{len(self.vocabulary)} {self.dim}\n")
            for word, vector in zip(self.vocabulary, self.vectors.tolist()):
                file.write(f"{word} {' '.join(f'{number:.9g}' for number in vector)}\n")


def build(name: str, *, vocabulary: Sequence[str] = (), segmenter: str | None = None) -> WordEncoder:
    """Vectors of small random numbers for a vocabulary.

    Args:
        name: words-N for vectors of N numbers, or words-N-minM, where the vocabulary was that of the words that
            occur M times.
        vocabulary: The words by number.
        segmenter: What cut texts into these words, None for white space.

    Raises:
        ValueError: The name is none of these, or the vocabulary is too small or holds a word twice.
    """
    _numbers(name)
    different = len(set(vocabulary))
    if len(vocabulary) < 2 or different < len(vocabulary):
        raise UserError(
            f"vocabulary must have at least 2 words, each once, got {len(vocabulary)}, {different} different"
        )
    if unfit := [word for word in vocabulary if not word or any(map(str.isspace, word))]:
        raise UserError(f"vocabulary must have words without white space, got {unfit[0]!r}")
    config = {"kind": "words", "name": name, "vocabulary": list(vocabulary)}
    return WordEncoder(config | ({"segmenter": segmenter} if segmenter else {}))


def fitted(name: str, data: "Data") -> WordEncoder:
    """Vectors of small random numbers for the words of texts.

    Args:
        name: As in `build`; without -minM words that occur fewer than 5 times are omitted.
        data: `Texts`.

    Raises:
        ValueError: The name is wrong, or fewer than two words occur that often.
    """
    _, min_count = _numbers(name)
    texts: Sequence[str] = data.texts  # type: ignore[attr-defined]
    segmenter: str | None = data.segmenter  # type: ignore[attr-defined]
    fraction = unspaced(texts[:LOOKED_AT])
    if segmenter is None and fraction > MOST_UNSPACED:
        _log.warning(
            f"{data.name}: {fraction:.0%} of the letters are of scripts without spaces, so that whole sentences count "
            "as words; split them with --segmenter characters, jieba or pythainlp"
        )
    counts = count_words(texts, min_count, segmenter)
    encoder = build(name, vocabulary=list(counts), segmenter=segmenter)
    frequencies = torch.tensor(list(counts.values()), dtype=torch.float64)
    encoder.adapt.shares.copy_(frequencies / frequencies.sum())
    return encoder


def _numbers(name: str) -> tuple[int, int]:
    """Width of the vectors and smallest count of a word, from the name of an encoder."""
    match = re.fullmatch(r"words-([1-9]\d{0,4})(?:-min([1-9]\d{0,8}))?", name)
    if match is None:
        raise UserError(
            f"encoder must be words-N or words-N-minM, such as words-100 or words-300-min2, got {name}"
        )
    return int(match[1]), int(match[2] or MIN_COUNT)
