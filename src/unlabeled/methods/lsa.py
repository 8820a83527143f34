"""LSA: describe a word by the texts that it occurs in, and by the words around it.

Withheld: nothing from latent semantic analysis, which projects the counts of words in texts onto their principal
directions in closed form; from skip-gram, the words around a word. Predicted: these neighbours, against noise words.

Source: Deerwester, Dumais, Furnas, Landauer, Harshman, "Indexing by Latent Semantic Analysis", 1990,
https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9; Mikolov, Sutskever, Chen, Corrado, Dean,
"Distributed Representations of Words and Phrases and their Compositionality", 2013, https://arxiv.org/abs/1310.4546
Differs: the vector of a word concatenates both parts, scaled so that texts vary equally in each. Words are weighted by
their inverse document frequency in the first part and by its square root in the second. The decomposition is of tf-idf
with 1 + ln(count) and unit vectors, as is usual today; the directions are not divided by the singular values.
Shortcut: frequent words occur in every text and around every word; the weights and subsampling make them count less.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.text.data import Texts
from unlabeled.data.text.tokens import Words
from unlabeled.encoders import WordEncoder
from unlabeled.encoders.word_vectors import Table
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, PositiveFraction
from unlabeled.parts.neighbours import Neighbours

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["LSA", "tf_idf"]

CHUNK = 512
"""Texts whose words are counted together."""
GUESSES, SHOWN = 5, 30
"""Words that pictures show of each prediction, and of each text."""
DECAY = 0.9
"""Fraction of the running variance that a step keeps: it covers about ten batches, as vectors grow in training."""


def tf_idf(data: Words, words: int) -> tuple["csr_array", np.ndarray]:
    """How often words occur in texts, with more weight on rare words.

    Args:
        data: A sample for each text.
        words: Size of the vocabulary.

    Returns:
        (1 + ln(count)) idf, rows of unit length, shape (texts, words), and idf = 1 + ln((1 + texts) / (1 + texts with
        the word)), float64, shape (words,).
    """
    from scipy.sparse import csr_array, diags_array, vstack
    from sklearn.preprocessing import normalize

    parts = []
    for rows in torch.arange(len(data)).split(CHUNK):
        batch = data.batch(rows)
        positions, mask = batch["mask"].nonzero().cpu().numpy(), batch["mask"]
        entries = np.ones(len(positions)), (positions[:, 0], batch["tokens"][mask].cpu().numpy())
        parts.append(csr_array(entries, shape=(len(rows), words)))
    counts: Any = vstack(parts, format="csr")
    counts.sum_duplicates()
    idf = 1 + np.log((1 + len(data)) / (1 + np.bincount(counts.indices, minlength=words)))
    counts.data = 1 + np.log(counts.data)
    weighted: Any = normalize(counts @ diags_array(idf))
    return weighted, idf


class LSA(Method[WordEncoder]):
    """Describe a word by the texts that it occurs in, and by the words around it.

    The loss is that of skip-gram; at chance level it is `(1 + negatives) ln 2`.

    Args:
        encoder: Word vectors that are kept.
        skipgram_dim: Dimensions of a vector that skip-gram learns from neighbours; the others are directions of LSA.
        window: Largest number of words on each side; each word's own reach is drawn uniformly from 1 to it.
        negatives: Number of noise words for each neighbour.
        rate: Initial learning rate of skip-gram; it falls linearly to a ten-thousandth.
    """

    kind = "text"
    encoder_kind = "words"
    defaults: ClassVar = {"encoder": "words-400-min2", "batch_size": 256}
    most_epochs = 25  # more made features of small sets worse on held-out training texts
    smallest: ClassVar = {"skipgram_dim": 20, "encoder": "words-30-min2"}

    vectors: Tensor
    weights: Tensor
    variance: Tensor

    def __init__(
        self,
        encoder: WordEncoder,
        *,
        skipgram_dim: Count = 100,
        window: Count = 5,
        negatives: Count = 5,
        rate: PositiveFraction = 0.025,
    ) -> None:
        super().__init__(encoder)
        if skipgram_dim >= encoder.dim:
            raise UserError(
                f"skipgram_dim must be below the dimension of the word vectors, {encoder.dim}, got {skipgram_dim}"
            )
        self.directions, self.width = encoder.dim - skipgram_dim, skipgram_dim
        table = Table(len(encoder.vocabulary), skipgram_dim).rows.detach()
        self.register_buffer("vectors", table)
        self.register_buffer("weights", torch.ones(len(table)))
        self.register_buffer("variance", torch.tensor(0.0))  # of texts in the unscaled part of skip-gram
        self.neighbours = Neighbours(
            table, window=window, negatives=negatives, subsample=1e-3, rate=rate, threads=1, mean=False
        )

    def chance(self, samples: int) -> float:
        return self.neighbours.chance

    def training_view(self, data: Texts) -> Data:
        return self.encoder.evaluation_view(data)

    @torch.no_grad()
    def prepare(self, data: Words) -> None:
        from sklearn.decomposition import TruncatedSVD

        if len(data) < 2:
            raise UserError(f"number of texts must be at least 2 for lsa, got {len(data)}")
        self.variance.zero_()
        words = len(self.encoder.vocabulary)
        self.neighbours.count(data.counts(words))
        weighted, idf = tf_idf(data, words)
        self.weights.copy_(torch.from_numpy(np.sqrt(idf)))
        most = min(self.directions, len(data) - 1, words - 1)
        svd: Any = TruncatedSVD(most, random_state=int(torch.randint(2**31, ())))
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # shares of no variance, where all texts are the same
            fitted = svd.fit(weighted)
        rows = self.encoder.rows[:, : self.directions].zero_()
        rows[:, :most] = torch.from_numpy(idf[:, None] * fitted.components_.T)
        batches = map(data.batch, torch.arange(len(data)).split(CHUNK))
        squares = [self._texts(batch)[:, : self.directions].square().sum() for batch in batches]
        if (total := torch.stack(squares).sum()) > 0:  # not if all texts are the same
            rows /= (total / len(data)).sqrt()

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        loss = self.neighbours(self.vectors, batch)
        if self.training:
            rows = self.encoder.rows[:, self.directions : self.encoder.dim]
            rows.copy_(self.vectors[:, : self.width] * self.weights[:, None])
            # A single batch of few texts, or of texts without known words, must not decide the scale.
            variance = self._texts(batch)[:, self.directions :].square().sum(1).mean()
            self.variance.copy_(torch.lerp(variance, self.variance, DECAY if self.variance > 0 else 0.0))
            if self.variance > 0:
                rows /= self.variance.sqrt()
        return loss

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        vocabulary, topics = self.encoder.vocabulary, self._texts(batch)[:, : self.directions]
        columns: dict[str, list[str]] = {"text": [], "words of its topic": [], "predicted neighbours": []}
        for tokens, real, topic in zip(batch["tokens"], batch["mask"], topics):
            direction = int(topic.abs().argmax())
            scores = self.encoder.rows[:, direction] * topic[direction].sign()
            guesses = self.neighbours.likeliest(self.vectors[tokens[real]].sum(0), GUESSES)
            likely = scores.topk(min(GUESSES, len(scores))).indices.tolist()
            for column, row in zip(columns.values(), (tokens[real].tolist()[:SHOWN], likely, guesses)):
                column.append(" ".join(vocabulary[word] for word in row))
        return dict(columns)

    def _texts(self, batch: Batch) -> Tensor:
        """Features of texts, float, shape (batch, dim)."""
        return self.encoder(self.encoder.inputs(batch))
