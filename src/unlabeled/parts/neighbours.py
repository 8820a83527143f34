"""Word vectors trained to predict neighbouring words against noise words (negative sampling)."""

import math

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.kernels import word_vectors
from unlabeled.parts import gather
from unlabeled.parts.teacher import Follower

__all__ = ["STRETCH", "Neighbours"]

STRETCH = 10_000
"""Words of a training sample."""
NOISE_POWER = 0.75
LEAST = 1e-4
"""Fraction of the learning rate that remains at the end of the training."""


class Neighbours(Follower):
    """Moves word vectors so that their products separate neighbours in a text from noise words.

    All of its state is in buffers, so that a resumed training is exact.

    Args:
        table: Word vectors, float, shape (words, multiple of 16); moved in place.
        window: Words on each side at most; the reach of each centre is drawn uniformly from 1 to it.
        negatives: Noise words, drawn in proportion to count ** 0.75.
        subsample: Frequency in the corpus above which a word is subsampled; 0 keeps all.
        rate: Learning rate at the start; it decays linearly to a ten-thousandth.
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
        """Loss in nats if every score is 0, as at the start."""
        return (1 + self.negatives) * math.log(2)

    def restart(self) -> None:
        self.progress.zero_()

    def follow(self, progress: float) -> None:
        self.progress.fill_(progress)

    def count(self, counts: Tensor) -> None:
        """Set the frequencies of the words, on which subsampling and noise depend.

        Args:
            counts: Occurrences in the corpus, int64, shape (words,).

        Raises:
            UserError: There are not two different words.
        """
        if (different := int((counts > 0).sum())) < 2:
            raise UserError(f"texts must have at least 2 different words of the vocabulary, got {different}")
        self._weigh(counts)

    def likeliest(self, vector: Tensor, count: int) -> list[int]:
        """Numbers of at most `count` words that a vector, float, shape (width,), predicts, the likeliest first."""
        scores = self.outputs @ vector
        return scores.topk(min(count, len(scores))).indices.tolist()

    def _weigh(self, counts: Tensor) -> None:
        numbers = counts.cpu().numpy()
        self.keep.copy_(torch.from_numpy(word_vectors.keep_probabilities(numbers, self.subsample)))
        table = word_vectors.alias_table(numbers.astype("float64") ** NOISE_POWER)
        self.noise.copy_(torch.from_numpy(table.view("int64")))

    @torch.no_grad()
    def forward(self, table: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Move the vectors by one pass over a batch; in evaluation mode nothing moves.

        Args:
            table: Word vectors, as above.
            batch: `tokens` and `sentence`, int64, shape (batch, length); windows end with the sentence.

        Returns:
            Mean loss of a prediction, in nats, scalar, without gradient; `chance` if there is nothing to predict.

        Raises:
            UserError: Several processes train together, or the vectors are in half precision.
        """
        if table.dtype not in (torch.float32, torch.float64):
            raise UserError(f"word vectors must be float32 or float64 to be trained, got {table.dtype}")
        if gather.processes() > 1:
            raise UserError(
                "devices and nodes must be 1 for word vectors, which threads speed up, "
                f"got {gather.processes()} processes"
            )
        # From a GPU the tables make a round trip; on a CPU these are the tensors themselves.
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
