"""CBOW: learn word vectors whose mean predicts the missing word between them.

Withheld: a word. Predicted: it, from the mean of the vectors of the words around it, against words drawn at random
from the corpus (negative sampling).

Source: Mikolov, Chen, Corrado, Dean, "Efficient Estimation of Word Representations in Vector Space", 2013,
https://arxiv.org/abs/1301.3781
Differs: a noise word that is the withheld word itself is drawn again; the sigmoid is exact, not a table that ends at 6.
As in the authors' program each neighbour gets the whole gradient of the mean, frequent words are subsampled with
probability sqrt(t / f) + t / f, and noise is drawn in proportion to count ** 0.75.
Shortcut: always the most frequent words, so they are subsampled, and drawn as noise more often.
"""

from typing import ClassVar

from torch import Tensor

from unlabeled.data import Data
from unlabeled.data.text.data import Texts
from unlabeled.data.text.tokens import Words
from unlabeled.encoders import WordEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Fraction, PositiveFraction
from unlabeled.parts.neighbours import STRETCH, Neighbours

__all__ = ["CBOW"]

GUESSES = 5


class CBOW(Method[WordEncoder]):
    """Learn word vectors whose mean predicts the missing word between them.

    The loss is the true mean over the withheld words; at chance level it is `(1 + negatives) ln 2`.

    Args:
        encoder: Word vectors that are kept.
        window: Largest number of words on each side; each word's own reach is drawn evenly from 1 to it.
        negatives: Noise words for each withheld word.
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
        subsample: Fraction = 1e-3,
        rate: PositiveFraction = 0.05,
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
            mean=True,
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
        columns: dict[str, list[str]] = {"text": [], "withheld": [], "predicted": []}
        for tokens, real in zip(batch["tokens"], batch["mask"]):
            text = tokens[real].tolist()
            middle = len(text) // 2
            before, after = text[max(0, middle - reach) : middle], text[middle + 1 : middle + 1 + reach]
            mean = self.encoder.rows[before + after].sum(0) / max(1, len(before + after))
            guesses = [words[word] for word in self.neighbours.likeliest(mean, GUESSES)]
            context = [" ".join(words[word] for word in part) for part in (before, after)]
            columns["text"].append(" ___ ".join(context))
            columns["withheld"].append(" ".join(words[word] for word in text[middle : middle + 1]))
            columns["predicted"].append(", ".join(guesses))
        return dict(columns)
