"""Neural language model: predict the next word piece from the vectors of the few pieces before it.

Withheld: every piece of a text, in turn. Predicted: that piece, from the pieces in a window before it.

Source: Bengio, Ducharme, Vincent, Jauvin, "A Neural Probabilistic Language Model", 2003,
https://www.jmlr.org/papers/v3/bengio03a.html
Differs: texts are cut into pieces of words (pairs of bytes), so that none is unknown, where the paper has whole words
and one symbol for all rare ones. The optimizer is AdamW, the paper's plain gradient descent with a learning rate that
falls slowly; weight decay spares the biases, as there. The paper also mixes its predictions with those of a trigram.
Shortcut: a window that reached the piece itself would only be copied, so it ends one piece earlier. What is not in the
window cannot be used: frequent pairs and triples explain most of the gain, and n-grams are the control to beat.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Fraction, NonNegative, WholeNumber
from unlabeled.parts import tokens
from unlabeled.parts.heads import near_zero
from unlabeled.parts.next_token import NextToken

__all__ = ["NeuralLanguageModel", "scores"]


def scores(hidden: Tensor, context: Tensor, output: nn.Linear, direct: nn.Linear | None) -> Tensor:
    """Logits of the next piece: b + U a + W x.

    Args:
        hidden: Hidden layer a, float, shape (predictions, hidden).
        context: Vectors x of the pieces in the window side by side, float, shape (predictions, window * width).
        output: U and b.
        direct: W, the direct connections; None for none.

    Returns:
        Float, shape (predictions, vocabulary).
    """
    return output(hidden) if direct is None else output(hidden) + direct(context)


class NeuralLanguageModel(NextToken, Method[TextEncoder]):
    """Predict the next word piece from the vectors of the few pieces before it.

    The metric `accuracy` is the fraction of pieces that are predicted correctly.

    Args:
        encoder: Network whose features are kept; its name says how many pieces it sees.
        direct: Whether the vectors of the window also predict directly, past the hidden layer.
        temperature: Sampling temperature when pictures continue a text; 0 always takes the likeliest piece.
        top_k: Pictures sample from this many of the likeliest pieces; 0 for all.
        top_p: Pictures sample from the likeliest pieces until their probabilities reach this sum.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "see a window of few tokens, such as nplm-small", "nplm")
    held_out = "stop"
    most_epochs = 20
    defaults: ClassVar = {"encoder": "nplm-small", "batch_size": 32, "lr": 1e-2, "weight_decay": 0.01}
    smallest: ClassVar = {"encoder": "nplm-tiny"}

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        direct: bool = False,
        temperature: NonNegative = 0.8,
        top_k: WholeNumber = 40,
        top_p: Fraction = 1.0,
    ) -> None:
        super().__init__(encoder)
        self.start(temperature=temperature, top_k=top_k, top_p=top_p)
        trunk, vocabulary = encoder.trunk, encoder.vocabulary
        self.output = near_zero(nn.Linear(trunk.dim, vocabulary))
        self.direct = near_zero(nn.Linear(trunk.width, vocabulary, bias=False)) if direct else None

    def forward(self, batch: Batch) -> Tensor:
        x = self.encoder.inputs(batch)
        context, truth = self.task(x, self.predicted(x))
        logits = self.logits(context)
        self.metrics = {"accuracy": tokens.accuracy(logits.detach(), truth)}
        return tokens.cross_entropy(logits, truth)

    def predicted(self, x: TextInput) -> Tensor:
        """Which pieces after the first window are real, bool, shape (batch, length - window)."""
        return x.mask[:, self.encoder.overlap :]

    def task(self, x: TextInput, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Windows, float, shape (predictions, window * width), and the piece after each, int64, (predictions,)."""
        context = self.encoder.trunk.context(x)[:, self.encoder.overlap - 1 : -1]
        return context[predicted], x.tokens[:, self.encoder.overlap :][predicted]

    def logits(self, context: Tensor) -> Tensor:
        """Logits of the piece after each window, float, shape (predictions, vocabulary)."""
        return scores(self.encoder.trunk.layer(context), context, self.output, self.direct).float()

    def surprise(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of each piece after the first window, float, shape (batch, length - window), 0 in
        padding."""
        x = self.encoder.inputs(batch)
        predicted = self.predicted(x)
        context, truth = self.task(x, predicted)
        nats = F.cross_entropy(self.logits(context), truth, reduction="none")
        return nats.new_zeros(predicted.shape).masked_scatter(predicted, nats)

    def predict(self, x: TextInput, last: Tensor) -> Tensor:
        return self.logits(self.encoder.trunk.context(x)[torch.arange(len(last), device=last.device), last])
