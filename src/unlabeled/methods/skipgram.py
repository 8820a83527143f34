"""Skip-gram: learn a vector for each word that predicts the words around it.

Withheld: the words around a word. Predicted: each of them, against words drawn at random from the corpus (negative
sampling), by the product of two vectors.

Source: Mikolov, Chen, Corrado, Dean, "Efficient Estimation of Word Representations in Vector Space", 2013,
https://arxiv.org/abs/1301.3781; Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words
and Phrases and their Compositionality", 2013, https://arxiv.org/abs/1310.4546
Differs: by default the noise words are drawn per centre, not per pair, and a window is one step of gradient descent; a
noise word that is the centre itself is drawn again; the sigmoid is exact, not a table that ends at 6. As in the
authors' program frequent words are subsampled with probability sqrt(t / f) + t / f, noise is drawn in proportion to
count ** 0.75, and the neighbour's vector scores the centre: over a corpus the pairs are the same.
Shortcut: frequent words predict everything a little, so they are subsampled, and drawn as noise more often.
"""

from typing import ClassVar, Literal

from torch import Tensor

from unlabeled.data import Data
from unlabeled.data.text.data import Texts
from unlabeled.data.text.tokens import Words
from unlabeled.encoders import WordEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Fraction, PositiveFraction
from unlabeled.parts.neighbours import STRETCH, Neighbours

__all__ = ["SkipGram"]

GUESSES = 5


class SkipGram(Method[WordEncoder]):
    """Learn a vector for each word that predicts the words around it.

    The loss is the true mean over the pairs; at chance level it is `(1 + negatives) ln 2`.

    Args:
        encoder: Word vectors that are kept.
        window: Largest number of words on each side; each word's own reach is drawn evenly from 1 to it.
        negatives: Noise words; 5 to 20 for small corpora, 2 to 5 for large ones.
        negatives_per: Draw the noise once for a centre word and all its neighbours, which is faster, or for each pair.
        subsample: Fraction of the corpus above which a word is subsampled; 0 keeps all.
        rate: Initial learning rate; it falls linearly to a ten-thousandth.
        threads: Threads that share the work; only one gives the same result each time.
    """

    kind = "text"
    encoder_kind = "words"
    defaults: ClassVar = {"encoder": "words-100", "batch_size": 8, "epochs": 10}

    def __init__(
        self,
        encoder: WordEncoder,
        *,
        window: Count = 5,
        negatives: Count = 5,
        negatives_per: Literal["centre", "pair"] = "centre",
        subsample: Fraction = 1e-3,
        rate: PositiveFraction = 0.025,
        threads: Count = 1,
    ) -> None:
        super().__init__(encoder)
        self.neighbours = Neighbours(
            encoder.rows,
            window=window,
            negatives=negatives,
            subsample=subsample,
            rate=rate,
            threads=threads,
            mean=False,
            share=negatives_per == "centre",
        )

    def chance(self, samples: int) -> float:
        return self.neighbours.chance

    def training_view(self, data: Texts) -> Data:
        return self.encoder.evaluation_view(data, STRETCH)

    def prepare(self, data: Words) -> None:
        self.neighbours.count(data.counts(len(self.encoder.vocabulary)))

    def forward(self, batch: Batch) -> Tensor:
        return self.neighbours(self.encoder.rows, batch)

    def pictures(self, batch: Batch) -> Pictures:
        words, reach = self.encoder.vocabulary, self.neighbours.window
        columns: dict[str, list[str]] = {"word": [], "withheld around it": [], "predicted": []}
        for tokens, real in zip(batch["tokens"], batch["mask"]):
            text = tokens[real].tolist()
            middle = len(text) // 2
            centre = text[middle : middle + 1]
            around = text[max(0, middle - reach) : middle] + text[middle + 1 : middle + 1 + reach]
            guesses = self.neighbours.likeliest(self.encoder.rows[centre].sum(0), GUESSES)
            for column, row in zip(columns.values(), (centre, around, guesses)):
                column.append(" ".join(words[word] for word in row))
        return dict(columns)
