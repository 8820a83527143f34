"""ELECTRA: tell which words of a text a small network has replaced.

Withheld: 15 % of the word pieces, which a small generator fills in, from both sides. Predicted: for every piece of the
result, whether it is the original.

Source: Clark, Luong, Le, Manning, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", 2020,
https://arxiv.org/abs/2003.10555
Differs: pieces are chosen without replacement, where the authors' code draws a tenth of them twice and adds their
numbers. The generator shares the vectors of the pieces; its positions and segments are its own. The vectors are as wide
as the encoder. Small networks have no dropout. The schedule is a cosine.
Shortcut: the encoder never sees [MASK], and a piece that was filled in correctly counts as an original, so only what
does not fit the text gives a replacement away. Calling every piece an original is right for 85 % of them and more, so
the area under the ROC curve says more than the accuracy. No gradient passes the sampling: the generator imitates the
text, it does not try to deceive.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.data.text.tokens import Tokens
from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.encoders.text_trunks import make_narrow
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import NonNegative, PositiveFraction
from unlabeled.parts import gather, tokens
from unlabeled.parts.heads import near_zero
from unlabeled.parts.precision import full

__all__ = ["ELECTRA", "Generator", "roc_area"]

MASKED = 0.85
"""Fraction of the chosen pieces that the generator sees as [MASK]; it sees the others as they are."""


def roc_area(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve: how often a positive has a higher score than a negative, ties count half.

    Args:
        scores: Float, shape (samples,).
        labels: Bool, shape (samples,).

    Returns:
        Scalar in 0..1; 0.5 without positives or without negatives.
    """
    positive, negative = scores[labels], scores[~labels].sort().values
    if not len(positive) or not len(negative):
        return scores.new_tensor(0.5)
    below, up_to = (torch.searchsorted(negative, positive, right=right) for right in (False, True))
    return (below + up_to).float().mean() / (2 * len(negative))


class Generator(nn.Module):
    """A narrower network like the encoder that fills in pieces, on the encoder's own vectors of them.

    Args:
        encoder: Network with the vectors of the pieces.
        width: Fraction of its width.
    """

    def __init__(self, encoder: TextEncoder, width: PositiveFraction) -> None:
        super().__init__()
        self.model = make_narrow(encoder.config["name"], encoder.length, width)
        inner: int = self.model.config.hidden_size
        self.enter = nn.Linear(encoder.dim, inner)
        self.words = tokens.TokenHead(encoder.dim, encoder.vocabulary, inner)

    def forward(self, x: TextInput, chosen: Tensor, vectors: Tensor) -> Tensor:
        """Logits of the chosen pieces, float, shape (chosen, vocabulary), of vectors of shape (vocabulary, dim)."""
        entered = self.enter(F.embedding(x.tokens, vectors))
        states = self.model(inputs_embeds=entered, attention_mask=x.mask.long()).last_hidden_state
        return full(self.words(states[chosen], vectors))


class ELECTRA(Method[TextEncoder]):
    """Tell which words of a text a small network has replaced.

    The metrics are the fraction of hidden words that the generator fills in correctly, the fraction of words that are
    replaced, and `roc_area`, how well replaced words are told from original ones (chance 0.5).

    Args:
        encoder: Network whose features are kept, the discriminator.
        hidden_ratio: Fraction of the word pieces that the generator fills in.
        generator_width: Width of the generator as a fraction of the encoder's.
        detection_weight: Weight of the discriminator's loss beside the generator's.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be bidirectional, such as bert-mini", "bert")
    most_epochs = 100
    defaults: ClassVar = {"encoder": "bert-tiny", "batch_size": 32, "lr": 1e-3, "weight_decay": 0.01}
    baseline: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        hidden_ratio: PositiveFraction = 0.15,
        generator_width: PositiveFraction = 0.25,
        detection_weight: NonNegative = 50.0,
    ) -> None:
        super().__init__(encoder)
        self.hidden_ratio, self.detection_weight = hidden_ratio, detection_weight
        self.generator = Generator(encoder, generator_width)
        layers = (near_zero(nn.Linear(encoder.dim, out), std=0.02) for out in (encoder.dim, 1))
        self.detector = nn.Sequential(next(layers), nn.GELU(), next(layers))
        self.register_buffer("baseline", torch.tensor(0.0))

    def training_view(self, data: Data) -> Data:
        return self.encoder.blocks(data)

    def prepare(self, data: Tokens) -> None:
        """Chance: a generator that fills in by frequency, and a detector that knows how many pieces it replaces."""
        counts = data.counts(self.encoder.vocabulary).double()
        replaced = self.hidden_ratio * (1 - (counts / counts.sum()).square().sum())
        detection = tokens.entropy(torch.stack([replaced, 1 - replaced]))
        self.baseline.copy_(tokens.entropy(counts) + self.detection_weight * detection)

    def forward(self, batch: Batch) -> Tensor:
        x = self.encoder.inputs(batch)
        filled, chosen, logits = self.fill(x)
        replaced, scores = filled.tokens != x.tokens, self.detect(filled)
        wrong = F.binary_cross_entropy_with_logits(scores, replaced.to(scores.dtype), reduction="none")
        pieces = tokens.candidates(self.encoder, x)  # [CLS] and [SEP] would be easy originals
        self.metrics = {
            "hidden_accuracy": tokens.accuracy(logits.detach(), x.tokens[chosen]),
            "replaced": replaced[pieces].float().mean(),
            "roc_area": roc_area(scores.detach()[pieces], replaced[pieces]),
        }
        imitation = tokens.cross_entropy(logits, x.tokens[chosen])
        return imitation + self.detection_weight * gather.mean(wrong, x.mask)

    def fill(self, x: TextInput) -> tuple[TextInput, Tensor, Tensor]:
        """Texts with pieces of the generator's, where it was asked, and its logits there."""
        chosen = tokens.choose(tokens.candidates(self.encoder, x), x.mask.sum(1), self.hidden_ratio)
        hidden = chosen & (torch.rand(chosen.shape, device=chosen.device) < MASKED)
        seen = x._replace(tokens=x.tokens.masked_fill(hidden, self.encoder.special("[MASK]")))
        logits = self.generator(seen, chosen, self.encoder.embeddings.weight)
        return (
            x._replace(tokens=x.tokens.masked_scatter(chosen, self.sample(logits.detach()))),
            chosen,
            logits,
        )

    def sample(self, logits: Tensor) -> Tensor:
        """A piece for each row of logits, int64, shape (pieces,), from their softmax."""
        return logits.softmax(1).multinomial(1).squeeze(1)

    def detect(self, x: TextInput) -> Tensor:
        """Logit of each piece being replaced, float, shape (batch, length)."""
        return full(self.detector(self.encoder.states(x)).squeeze(2))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Texts with what was replaced and what is held to be replaced in brackets."""
        x = self.encoder.inputs(batch)
        filled = self.fill(x)[0]
        marks = {"replaced": filled.tokens != x.tokens, "detected": self.detect(filled) > 0}
        texts = {name: tokens.mark(self.encoder, filled.tokens, mark, x.mask) for name, mark in marks.items()}
        return texts | {"true": tokens.mark(self.encoder, x.tokens, marks["replaced"], x.mask)}
