"""Tf-idf of words: how often words and pairs of neighbours occur in whole texts, with more weight on rare ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlabeled.check import UserError
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation
from unlabeled.parts.vocabulary import splitter

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make", "texts", "vectorizer"]

TERMS = 4000
"""Largest number of words and pairs, the most frequent ones, as the vectors are dense."""


def texts(data: Any) -> list[str]:
    """The whole text of each sample.

    Raises:
        ValueError: The data are tokens, not whole texts.
    """
    if getattr(data, "texts", None) is None:
        raise UserError(
            f"data must be texts for the controls tfidf and lsa, got tokens of {data.name}; choose other controls"
        )
    return data.texts


def vectorizer(contents: Sequence[str], most: int, rarest: int = 1) -> Any:
    """A fitted `TfidfVectorizer` of scikit-learn, of words and pairs of neighbours: 1 + ln(count), unit vectors.

    Args:
        contents: The training texts.
        most: Largest number of terms, the most frequent ones.
        rarest: Number of texts in which a term must occur.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Each character of scripts without spaces is a word; pairs of them are nearly their words.
    options: dict[str, Any] = {"analyzer": "word", "tokenizer": splitter("characters"), "token_pattern": None}
    options |= {"lowercase": False, "min_df": rarest, "ngram_range": (1, 2), "max_features": most}
    result = TfidfVectorizer(**options, sublinear_tf=True, dtype=np.float32)  # type: ignore[arg-type]
    try:
        return result.fit(contents)
    except ValueError as error:
        raise UserError(f"texts must contain words for the controls tfidf and lsa ({error})") from error


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Tf-idf with the vocabulary and document frequencies of the training texts."""
    fitted = vectorizer(texts(data), TERMS)
    count = len(fitted.vocabulary_)

    def whole(data: "Data") -> torch.Tensor:
        return torch.from_numpy(fitted.transform(texts(data)).toarray()).to(data.device)

    detail = f"the {count:,} most frequent words and pairs of words, whole texts"
    return Representation("tfidf", of_batch, one_unit=True, detail=detail, whole=whole)


def of_batch(batch: Any, layer: str | None) -> torch.Tensor:
    """Refuse batches: texts are read as a whole, and batches hold only their first tokens."""
    raise NotImplementedError


CONTROL = Control(make, ("text", "words"), row=2)
