"""data2vec for texts: predict at masked pieces what a slowly moving copy computes from the whole text.

Withheld: spans of word pieces, each replaced by [MASK]. Predicted: for each piece what the feed-forward layers of the
copy give there, averaged over its last layers and normalised, by a small network; no vocabulary is predicted.

Source: Baevski, Hsu, Xu, Babu, Gu, Auli, "data2vec: A General Framework for Self-supervised Learning in Speech, Vision
and Language", 2022, https://arxiv.org/abs/2202.03555
Differs: the networks are smaller, with both of 2 layers averaged instead of 10 of 12, and without dropout. The average
is normalised once more, so that the loss of predicting 0 is known. The copy has vectors of word pieces of its own; in
the authors' code they are the student's. The momentum rises along a cosine from 0.99 to 1; in the paper from 0.999 to
0.9999. Texts of different lengths keep their own numbers of spans.
Shortcut: features that are the same at all pieces would be easy to predict. Targets receive no gradient, come from the
slowly moving copy and are normalised; the loss cannot show a collapse, the metric `target std` does.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, Positive, PositiveFraction
from unlabeled.parts import gather, tokens
from unlabeled.parts.heads import near_zero
from unlabeled.parts.hidden_patches import zero_loss
from unlabeled.parts.precision import full
from unlabeled.parts.spans import spans
from unlabeled.parts.teacher import Teacher

__all__ = ["Data2VecText", "explained", "targets"]


def targets(outputs: list[Tensor]) -> Tensor:
    """Mean over layers, each of which, and the mean itself, is brought to mean 0 and variance 1 at every piece.

    Args:
        outputs: Of some layers, float, shape (batch, length, dim) each.
    """
    layers = [F.layer_norm(full(output), output.shape[2:]) for output in outputs]
    return F.layer_norm(torch.stack(layers).mean(0), outputs[0].shape[2:])


def explained(predicted: Tensor, true: Tensor) -> Tensor:
    """Fraction of the variance of targets over pieces that predictions explain, scalar, at most 1.

    Args:
        predicted: Float, shape (pieces, dim).
        true: Float, shape (pieces, dim); what all have in common does not count.
    """
    variance = (true - true.mean(0)).square().sum()
    return 1 - (predicted - true).square().sum() / variance.clamp(min=1e-12)


class Data2VecText(Method[TextEncoder]):
    """Predict at masked pieces of a text what a slowly moving copy computes from the whole text.

    The metric `explained` is the fraction of the variance of the targets over the masked pieces of a batch that the
    predictions explain: the loss also falls where they learn only what all targets have in common. `target std` is the
    standard deviation of the targets over all pieces before they are normalised: near 0 all are the same.

    Args:
        encoder: Network whose features are kept.
        layers: Last layers of the copy that are averaged; 10 of 12 in the paper.
        mask: Fraction of the pieces that the masked spans would cover if none overlapped.
        span: Pieces of a masked span.
        beta: Error below which the loss is quadratic.
        momentum: Initial momentum of the copy, 0.999 in the paper; rises to 1 along a cosine.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be bidirectional, such as bert-mini", "bert")
    most_epochs = 100
    defaults: ClassVar = {
        "encoder": "bert-tiny",
        "batch_size": 32,
        "lr": 5e-4,
        "weight_decay": 0.01,
        "clip": 5.0,
    }

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        layers: Count = 2,
        mask: PositiveFraction = 0.35,
        span: Count = 4,
        beta: Positive = 4.0,
        momentum: Fraction = 0.99,
    ) -> None:
        super().__init__(encoder)
        if layers >= len(encoder.map_dims):
            raise UserError(
                f"layers must be at most the {len(encoder.map_dims) - 1} of the encoder, got {layers}"
            )
        self.layers, self.hidden, self.beta = layers, (mask, span), beta
        widths = nn.Linear(encoder.dim, 2 * encoder.dim), nn.Linear(2 * encoder.dim, encoder.dim)
        self.head = nn.Sequential(widths[0], nn.GELU(), near_zero(widths[1]))
        self.teacher = Teacher(encoder.trunk, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return zero_loss(self.beta)  # a collapsed encoder goes below it

    def training_view(self, data: Data) -> Data:
        return self.encoder.blocks(data)

    def mask(self, x: TextInput) -> Tensor:
        """Which pieces are masked, never [CLS], [SEP] or padding, bool, shape (batch, length)."""
        length = x.tokens.shape[1] - 1  # without [CLS]; spans leave out the last position themselves
        return F.pad(spans(x.mask.sum(1) - 1, length, *self.hidden, fewest=1), (1, 0))

    @torch.no_grad()
    def targets(self, x: TextInput) -> Tensor:
        """The copy's targets of all pieces, float, shape (batch, length, dim)."""
        outputs = self.teacher.network.eval().feed_forward(x)[-self.layers :]
        self.metrics = {"target std": full(torch.stack(outputs).mean(0))[x.mask].std(0).mean()}
        return targets(outputs)

    def predict(self, x: TextInput, masked: Tensor) -> Tensor:
        """Predictions of masked pieces in order, float, shape (masked, dim)."""
        seen = x._replace(tokens=x.tokens.masked_fill(masked, self.encoder.special("[MASK]")))
        return full(self.head(self.encoder.states(seen)[masked]))

    def task(self, batch: Batch) -> tuple[TextInput, Tensor]:
        """Texts, and which of their pieces are masked."""
        x = self.encoder.inputs(batch)
        return x, self.mask(x)

    def forward(self, batch: Batch) -> Tensor:
        x, masked = self.task(batch)
        predicted, true = self.predict(x, masked), self.targets(x)[masked]
        self.metrics["explained"] = explained(predicted.detach(), true)
        return gather.mean(F.smooth_l1_loss(predicted, true, beta=self.beta, reduction="none").mean(1))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Texts; masked pieces are replaced by the piece of any text whose target fits the prediction best."""
        x, masked = self.task(batch)
        true = self.targets(x)
        cosines = F.normalize(self.predict(x, masked), dim=1) @ F.normalize(true[x.mask], dim=1).T
        fitting = x.tokens.masked_scatter(masked, x.tokens[x.mask][cosines.argmax(1)])
        rows = {"masked": x.tokens, "best fit": fitting}
        return {name: tokens.mark(self.encoder, row, masked, x.mask) for name, row in rows.items()}
