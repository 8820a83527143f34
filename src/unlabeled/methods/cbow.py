"""CBOW: learn vectors of words whose mean tells which word is missing between them.

Withheld: a word. Predicted: it, from the mean of the vectors of the words around it, against words drawn at random
from the corpus (negative sampling).

Source: Mikolov, Chen, Corrado, Dean, "Efficient Estimation of Word Representations in Vector Space", 2013,
https://arxiv.org/abs/1301.3781
Differs: noise that is the withheld word itself is drawn again; the sigmoid is exact, not a table that ends at 6. As
in the authors' program each neighbour gets the whole gradient of the mean, frequent words are thinned out by
sqrt(t / f) + t / f, and noise is drawn in proportion to count ** 0.75.
Shortcut: always the most frequent words, so they are thinned out and drawn as noise more often.
"""

from typing import TYPE_CHECKING

from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts.neighbours import FromNeighbours, Neighbours

if TYPE_CHECKING:
    from unlabeled.encoders import WordEncoder

__all__ = ["CBOW"]

SHOWN = 5


class CBOW(FromNeighbours, Method):
    """Learn vectors of words whose mean tells which word is missing between them.

    The loss is the true mean over the words that were withheld; it is `(1 + negatives) ln 2` for one who knows nothing.

    Args:
        encoder: Vectors of words that are kept.
        window: Words on each side at most; each word's own reach is drawn evenly from 1 to it.
        negatives: Noise words for each that is withheld.
        subsample: Share of the corpus above which a word is thinned out; 0 keeps all.
        rate: Learning rate at the start; it falls linearly to a ten-thousandth.
        threads: Threads that share the work; only one gives the same result each time.
    """

    kind = "text"
    encoder_kind = "words"

    def __init__(
        self,
        encoder: "WordEncoder",
        *,
        window: int = 5,
        negatives: int = 5,
        subsample: float = 1e-3,
        rate: float = 0.05,
        threads: int = 1,
    ) -> None:
        pace = {"subsample": subsample, "rate": rate, "threads": threads}
        super().__init__(encoder)
        self.neighbours = Neighbours(encoder.rows, window=window, negatives=negatives, mean=True, **pace)

    def pictures(self, batch: Batch) -> Pictures:
        words, reach = self.encoder.vocabulary, self.neighbours.window
        shown: dict[str, list[str]] = {"text": [], "withheld": [], "predicted": []}
        for tokens, mask in zip(batch["tokens"], batch["mask"]):
            text = tokens[mask].tolist()
            middle = len(text) // 2
            before, after = text[max(0, middle - reach) : middle], text[middle + 1 : middle + 1 + reach]
            mean = self.encoder.rows[before + after].sum(0) / max(1, len(before + after))
            named = [" ".join(words[word] for word in part) for part in (before, after)]
            shown["text"].append(" ___ ".join(named))
            shown["withheld"].append(" ".join(words[word] for word in text[middle : middle + 1]))
            shown["predicted"].append(", ".join(self.guesses(mean, SHOWN)))
        return dict(shown)
