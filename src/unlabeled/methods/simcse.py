"""SimCSE: recognise a text among others by what another dropout leaves of it.

Withheld: which of the vectors of a batch, computed with another dropout, is of the same text. Predicted: that vector,
by cosine similarity.

Source: Gao, Yao, Chen, "SimCSE: Simple Contrastive Learning of Sentence Embeddings", 2021,
https://arxiv.org/abs/2104.08821 (unsupervised)
Differs: the features are the mean over a text's pieces, not the state of [CLS], so that saved and exported encoders
give the vectors that were compared; the head is the paper's, one layer and tanh, which only training uses. Texts are
read in blocks of up to the encoder's length, not as single sentences. The authors start from BERT and select a
checkpoint by labelled pairs; here the encoder starts from random weights unless `weights` names a file of `bert`, and
the last state is kept. In evaluation mode the loss drops units too, as it would otherwise compare vectors with
themselves.
Shortcut: the loss is low as soon as texts differ at all, in length for instance, so alignment and uniformity say more.
Without dropout both passes would be equal and the loss would fall all the same, so dropout must be above 0, and it is
set in networks that have none.
"""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Positive, Range
from unlabeled.parts.heads import near_zero
from unlabeled.parts.info_nce import in_batch
from unlabeled.parts.precision import full

__all__ = ["SimCSE", "alignment", "uniformity"]


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the two unit vectors of a text, 0..4, scalar, of two tensors of shape (batch, dim)."""
    return (first - second).square().sum(1).mean()


def uniformity(vectors: Tensor) -> Tensor:
    """Logarithm of the mean of exp(-2 distance²) over all pairs of texts; lower is more uniform.

    Args:
        vectors: Unit vectors, float, shape (batch, dim).

    Returns:
        Scalar in -8..0; 0 where there is no pair.
    """
    squares = torch.pdist(vectors).square()
    return squares.mul(-2).exp().mean().log() if len(squares) else squares.sum()


class SimCSE(Method[TextEncoder]):
    """Recognise a text among others by what another dropout leaves of it.

    The metrics are `alignment`, the mean squared distance of the two vectors of a text, and `uniformity`, which is the
    lower the more evenly the vectors of different texts are spread, both of unit vectors before the head.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; lower penalises hard negatives more.
        dropout: Fraction of the activations and of the attention that is dropped.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be bidirectional, such as bert-mini", "bert")
    compares_samples = True
    most_epochs = 100
    defaults: ClassVar = {"encoder": "bert-tiny", "batch_size": 64, "lr": 3e-4, "weight_decay": 0.01}

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        temperature: Positive = 0.05,
        dropout: Annotated[float, Range(above=0, below=1)] = 0.1,
    ) -> None:
        super().__init__(encoder)
        self.temperature = temperature
        encoder.trunk.set_dropout(dropout)
        self.head = nn.Sequential(near_zero(nn.Linear(encoder.dim, encoder.dim), std=0.02), nn.Tanh())

    def chance(self, samples: int) -> float:
        return math.log(samples)

    def training_view(self, data: Data) -> Data:
        return self.encoder.blocks(data)

    def forward(self, batch: Batch) -> Tensor:
        first, second = self.two_passes(self.encoder.inputs(batch))
        with torch.no_grad():
            units = [F.normalize(full(vectors), dim=1) for vectors in (first, second)]
            self.metrics = {"alignment": alignment(*units), "uniformity": uniformity(units[0])}
        return in_batch(self.head(first), self.head(second), self.temperature)

    def two_passes(self, x: TextInput) -> tuple[Tensor, Tensor]:
        """Features of each text with two independent draws of dropout, float, shape (batch, dim) each."""
        training = self.encoder.training
        self.encoder.train()
        first, second = self.encoder(TextInput(*(torch.cat([part, part]) for part in x))).chunk(2)
        self.encoder.train(training)
        return first, second

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Texts, and of the others in the batch the one with the most similar features."""
        vectors = F.normalize(full(self.features(batch)), dim=1)
        nearest = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)
        texts = [self.encoder.decode(row[real]) for row, real in zip(batch["tokens"], batch["mask"])]
        return {"text": texts, "most similar": [texts[row] for row in nearest.tolist()]}
