"""LSA: the tf-idf of words and pairs in whole texts, projected onto its principal directions."""

from typing import TYPE_CHECKING

import torch

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls.tfidf import of_batch, texts, vectorizer
from unlabeled.evaluation.features import Representation

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]

TERMS, RAREST, DIRECTIONS = 50_000, 2, 300
"""Largest number of words and pairs, training texts in which each must occur, and largest number of directions."""


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Fitted to the training texts; the seed is that of the truncated singular value decomposition."""
    from sklearn.decomposition import TruncatedSVD

    contents = texts(data)
    fitted = vectorizer(contents, TERMS, min(RAREST, len(contents)))
    terms = fitted.transform(contents)
    projection = TruncatedSVD(max(1, min(DIRECTIONS, min(terms.shape) - 1)), random_state=seed).fit(terms)

    def whole(data: "Data") -> torch.Tensor:
        vectors = torch.from_numpy(projection.transform(fitted.transform(texts(data))))
        return torch.nn.functional.normalize(vectors.float()).to(data.device)

    detail = f"{projection.n_components} directions of {terms.shape[1]:,} words and pairs of words"
    return Representation("lsa", of_batch, one_unit=True, detail=detail, whole=whole)


CONTROL = Control(make, ("text", "words"), row=3)
