"""Skip-gram: learn a vector for each word that tells which words stand around it.

Withheld: the words around a word. Predicted: each of them, against words drawn at random from the corpus (negative
sampling), by the product of two vectors.

Source: Mikolov, Chen, Corrado, Dean, "Efficient Estimation of Word Representations in Vector Space", 2013,
https://arxiv.org/abs/1301.3781; Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed Representations of Words
and Phrases and their Compositionality", 2013, https://arxiv.org/abs/1310.4546
Differs: by default the noise words are drawn for a centre, not for each pair, and a window is one step of gradient
descent; noise that is the centre itself is drawn again; the sigmoid is exact, not a table that ends at 6. As in the
authors' program frequent words are thinned out by sqrt(t / f) + t / f, noise is drawn in proportion to count ** 0.75,
and it is the neighbour's vector that scores the centre: over a corpus the pairs are the same.
Shortcut: frequent words predict everything a little, so they are thinned out and drawn as noise more often.
"""

from typing import TYPE_CHECKING, Literal

from unlabeled import check
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts.neighbours import FromNeighbours, Neighbours

if TYPE_CHECKING:
    from unlabeled.encoders import WordEncoder

__all__ = ["SkipGram"]

SHOWN = 5


class SkipGram(FromNeighbours, Method):
    """Learn a vector for each word that tells which words stand around it.

    The loss is the true mean over the pairs that were seen; it is `(1 + negatives) ln 2` for one who knows nothing.

    Args:
        encoder: Vectors of words that are kept.
        window: Words on each side at most; each word's own reach is drawn evenly from 1 to it.
        negatives: Noise words; 5 to 20 for small corpora, 2 to 5 for large ones.
        negatives_per: Whether a centre word draws its noise once for all its neighbours, or each pair draws its own;
            centre is faster.
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
        negatives_per: Literal["centre", "pair"] = "centre",
        subsample: float = 1e-3,
        rate: float = 0.025,
        threads: int = 1,
    ) -> None:
        check.choice(("centre", "pair"), negatives_per=negatives_per)
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

    def pictures(self, batch: Batch) -> Pictures:
        words, reach = self.encoder.vocabulary, self.neighbours.window
        rows: list[list[str]] = []
        for tokens, mask in zip(batch["tokens"], batch["mask"]):
            text = tokens[mask].tolist()
            middle = len(text) // 2
            around = text[max(0, middle - reach) : middle] + text[middle + 1 : middle + 1 + reach]
            guesses = self.guesses(self.encoder.rows[text[middle : middle + 1]].sum(0), SHOWN)
            named = [" ".join(words[word] for word in part) for part in (text[middle : middle + 1], around)]
            rows.append([*named, " ".join(guesses)])
        return dict(zip(("word", "withheld around it", "predicted"), map(list, zip(*rows))))
