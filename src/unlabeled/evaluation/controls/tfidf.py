"""Tf-idf of words: how often words and pairs of neighbouring words occur in whole texts, rare ones counting more."""

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
"""Words and pairs that are counted, the most frequent ones: a vector is dense."""


def texts(data: Any) -> list[str]:
    """The whole text of each sample.

    Raises:
        ValueError: The data are tokens, and not those of whole texts.
    """
    if getattr(data, "texts", None) is None:
        raise UserError(
            f"data must be texts for the controls tfidf and lsa, got tokens of {data.name}; name other controls"
        )
    return data.texts


def vectorizer(contents: Sequence[str], most: int, rarest: int = 1) -> Any:
    """A fitted `TfidfVectorizer` of scikit-learn, of words and pairs of neighbours: 1 + ln(count), unit vectors.

    Args:
        contents: The training texts.
        most: Terms at most, the most frequent ones.
        rarest: Texts that a term must be in.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Each character of scripts without spaces is a word; pairs of them are nearly their words.
    options: dict[str, Any] = {"analyzer": "word", "tokenizer": splitter("characters"), "token_pattern": None}
    options |= {"lowercase": False, "min_df": rarest, "ngram_range": (1, 2), "max_features": most}
    made = TfidfVectorizer(**options, sublinear_tf=True, dtype=np.float32)  # type: ignore[arg-type]
    try:
        return made.fit(contents)
    except ValueError as error:
        raise UserError(f"texts must hold words for the controls tfidf and lsa ({error})") from error


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Vocabulary and frequencies of documents are those of the training texts."""
    fitted = vectorizer(texts(data), TERMS)
    count = len(fitted.vocabulary_)

    def whole(data: "Data") -> torch.Tensor:
        return torch.from_numpy(fitted.transform(texts(data)).toarray()).to(data.device)

    detail = f"the {count:,} most frequent words and pairs of words, whole texts"
    return Representation("tfidf", of_batch, one_unit=True, detail=detail, whole=whole)


def of_batch(batch: Any, layer: str | None) -> torch.Tensor:
    """Texts are read as a whole: batches hold their first tokens only."""
    raise NotImplementedError


CONTROL = Control(make, ("text", "words"), row=2)
