"""What learning words from their neighbours keeps beside the vectors: the scoring table, the noise, the pace."""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.kernels import word_vectors
from unlabeled.parts import gather

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import WordEncoder
    from unlabeled.method import Batch

__all__ = ["STRETCH", "FromNeighbours", "Neighbours"]

STRETCH = 10_000
"""Words that are read in one go."""
NOISE_POWER = 0.75
LEAST = 1e-4
"""Share of the learning rate that is left at the end of the training."""


class Neighbours(nn.Module):
    """Moves vectors of words so that they tell neighbours in a text from words drawn as noise.

    All it knows is in its buffers, so that a resumed training is exact.

    Args:
        table: Vectors of the words, float, shape (words, multiple of 16); moved in place.
        window: Words on each side at most; each centre's own reach is drawn evenly from 1 to it.
        negatives: Noise words, drawn in proportion to count ** 0.75.
        subsample: Share of the corpus above which a word is thinned out; 0 keeps all.
        rate: Learning rate at the start; it falls linearly to a ten-thousandth.
        threads: Threads that share the work; only one gives the same result each time.
        mean: Whether the mean of a window predicts its centre, instead of each word.
        share: Whether all words of a window share the noise words of its centre.
    """

    outputs: Tensor
    keep: Tensor
    noise: Tensor
    progress: Tensor

    def __init__(
        self,
        table: Tensor,
        *,
        window: int,
        negatives: int,
        subsample: float,
        rate: float,
        threads: int,
        mean: bool,
        share: bool = True,
    ) -> None:
        super().__init__()
        check.at_least(1, window=window, negatives=negatives, threads=threads)
        check.whole(window=window, negatives=negatives, threads=threads)
        check.positive(rate=rate)
        check.fraction(subsample=subsample, rate=rate)
        self.window, self.negatives, self.subsample, self.rate = window, negatives, subsample, rate
        self.threads, self.mean, self.share = threads, mean, share
        self.register_buffer("outputs", torch.zeros_like(table))
        self.register_buffer("keep", torch.ones(len(table), dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(len(table), dtype=torch.int64))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self._weigh(torch.ones(len(table), dtype=torch.int64))

    @property
    def chance(self) -> float:
        """Loss in nats where every score is 0, as it is at the start."""
        return (1 + self.negatives) * math.log(2)

    def prepare(self, counts: Tensor) -> None:
        """Take over how often the words stand in the corpus, and start at the full learning rate.

        Args:
            counts: Int64, shape (words,).

        Raises:
            ValueError: There are not two different words.
        """
        if (different := int((counts > 0).sum())) < 2:
            raise UserError(f"texts must have at least 2 different words of the vocabulary, got {different}")
        self._weigh(counts)
        self.progress.zero_()

    def _weigh(self, counts: Tensor) -> None:
        numbers = counts.cpu().numpy()
        self.keep.copy_(torch.from_numpy(word_vectors.keep_probabilities(numbers, self.subsample)))
        table = word_vectors.alias_table(numbers.astype("float64") ** NOISE_POWER)
        self.noise.copy_(torch.from_numpy(table.view("int64")))

    @torch.no_grad()
    def forward(self, table: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Move the vectors by one pass over a batch; in evaluation mode nothing moves.

        Args:
            table: Vectors of the words, as above.
            batch: `tokens` and `sentence`, int64, shape (batch, length); windows end with the sentence.

        Returns:
            Mean loss of a prediction, in nats, scalar, without gradient; `chance` where there is none to be made.

        Raises:
            ValueError: Several processes train together, or the vectors are of a type of half precision.
        """
        if table.dtype not in (torch.float32, torch.float64):
            raise UserError(f"word vectors must be float32 or float64 to be trained, got {table.dtype}")
        if gather.processes() > 1:
            raise UserError(
                "devices and nodes must be 1 for word vectors, which threads speed up, "
                f"got {gather.processes()} processes"
            )
        # On a GPU the tables make a round trip; on a processor these are the tensors themselves.
        inputs, outputs = (rows.detach().cpu().contiguous() for rows in (table, self.outputs))
        if not self.training:
            inputs, outputs = inputs.clone(), outputs.clone()
        pace = max(LEAST, 1 - float(self.progress)) if self.training else 0.0
        loss, predictions = word_vectors.train(
            inputs.numpy(),
            outputs.numpy(),
            batch["tokens"].cpu().numpy(),
            batch["sentence"].cpu().numpy(),
            keep=self.keep.cpu().numpy(),
            noise=self.noise.cpu().numpy().view("uint64"),
            window=self.window,
            negatives=self.negatives,
            rate=self.rate * pace,
            seed=int(torch.randint(2**62, ())),
            threads=self.threads,
            mean=self.mean,
            share=self.share,
        )
        for rows, moved in ((table, inputs), (self.outputs, outputs)):
            if self.training and rows.data_ptr() != moved.data_ptr():
                rows.copy_(moved)
        value = loss / predictions if predictions else self.chance
        return torch.tensor(value, device=table.device)


class FromNeighbours:
    """What methods share that learn vectors of words by `neighbours`; they move the vectors themselves."""

    defaults: ClassVar[dict[str, Any]] = {"encoder": "words-100", "batch_size": 8, "epochs": 10}
    encoder: "WordEncoder"
    neighbours: Neighbours

    def chance(self, samples: int) -> float:
        return self.neighbours.chance

    def training_view(self, data: "Data") -> "Data":
        return self.encoder.evaluation_view(data, STRETCH)

    def prepare(self, data: "Data") -> None:
        self.neighbours.prepare(data.counts(len(self.encoder.vocabulary)))  # type: ignore[attr-defined]

    def forward(self, batch: "Batch") -> Tensor:
        return self.neighbours(self.encoder.rows, batch)

    def after_step(self, progress: float) -> None:
        self.neighbours.progress.fill_(progress)

    def guesses(self, vector: Tensor, count: int) -> list[str]:
        """Words that a vector predicts, the likeliest first.

        Args:
            vector: Float, shape (width,).
            count: Words at most.
        """
        scores = self.neighbours.outputs @ vector
        best = scores.topk(min(count, len(self.encoder.vocabulary))).indices
        return [self.encoder.vocabulary[word] for word in best.tolist()]
