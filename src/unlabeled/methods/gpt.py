"""GPT: predict the next word piece from all earlier ones.

Withheld: every piece of a text, in turn. Predicted: that piece, from those before it.

Source: Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask Learners", 2019,
https://openai.com/research/better-language-models
Differs: a text that is longer than the network's window is read in windows that share one piece, so that each piece
is predicted once. Small networks have no dropout; gpt-base drops a tenth. The weights are updated by the loop's AdamW,
with a second beta of 0.999 and without clipping by default; usual recipes have 0.95 and a clip at 1.
Shortcut: a piece that saw itself would only be copied, so attention never looks ahead.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts import tokens

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import TextEncoder

__all__ = ["GPT"]

LONGEST = 32
"""Pieces at most that a picture adds to a text."""


class GPT(Method):
    """Predict the next word piece from all the earlier ones.

    The metric `accuracy` is the share of pieces whose prediction is right.

    Args:
        encoder: Network whose features are kept.
        temperature: Divides the logits when pictures continue a text; 0 always takes the likeliest piece.
        top_k: Pictures draw from as many of the likeliest pieces; 0 for all.
        top_p: Pictures draw from the likeliest pieces until their probabilities reach this sum.
    """

    kind = "text"
    held_out = "stop"
    most_epochs = 20
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": "gpt-tiny",
        "batch_size": 32,
        "lr": 1e-3,
        "weight_decay": 0.1,
    }
    encoder: "TextEncoder"  # type: ignore[assignment]
    entropy: Tensor

    def __init__(
        self, encoder: nn.Module, *, temperature: float = 0.8, top_k: int = 40, top_p: float = 1.0
    ) -> None:
        super().__init__(encoder)
        check.at_least(0, temperature=temperature, top_k=top_k)
        check.whole(top_k=top_k)
        check.fraction(top_p=top_p)
        if getattr(encoder, "family", None) != "gpt":
            name = getattr(encoder, "config", {}).get("name", type(encoder).__name__)
            raise UserError(f"encoder must be one that never looks ahead, such as gpt-mini, got {name}")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.register_buffer("entropy", torch.tensor(math.log(self.encoder.vocabulary)))

    def chance(self, samples: int) -> float:
        """Loss of a method that knows only the frequencies of the word pieces."""
        return float(self.entropy)

    def training_view(self, data: "Data") -> "Data":
        return self.encoder.blocks(data)

    def prepare(self, data: "Data") -> None:
        super().prepare(data)
        counts = data.counts(self.encoder.vocabulary, skip=1)  # type: ignore[attr-defined]
        self.entropy.copy_(tokens.entropy(counts))

    def forward(self, batch: Batch) -> Tensor:
        x = self.encoder.inputs(batch)
        real = x.mask[:, 1:]
        truth = x.tokens[:, 1:][real]
        logits = self.logits(self.encoder.states(x)[:, :-1][real])
        self.metrics = {"accuracy": (logits.detach().argmax(1) == truth).float().mean()}
        return tokens.cross_entropy(logits, truth)

    def logits(self, states: Tensor) -> Tensor:
        """Logits of the next piece, float, shape (..., vocabulary), by the encoder's own vectors of the pieces."""
        return F.linear(states, self.encoder.embeddings.weight).float()

    def surprise(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of each piece but the first, float, shape (batch, length - 1), 0 in padding."""
        x = self.encoder.inputs(batch)
        logits = self.logits(self.encoder.states(x)[:, :-1])
        nats = F.cross_entropy(logits.flatten(0, 1), x.tokens[:, 1:].flatten(), reduction="none")
        return nats.view(len(x.tokens), -1).where(x.mask[:, 1:], 0)

    def generate(self, texts: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Continue texts, int64, shape (batch, length), by `count` pieces, int64, shape (batch, count)."""

        def encode(visible: Tensor, real: Tensor) -> Tensor:
            return self.encoder.states(
                self.encoder.inputs({"tokens": visible, "mask": real, "sentence": real})
            )

        def draw(states: Tensor) -> Tensor:
            return tokens.sample(self.logits(states), self.temperature, self.top_k, self.top_p)

        return tokens.generate(texts, lengths, count, self.encoder.length, encode, draw)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        x = self.encoder.inputs(batch)
        lengths = x.mask.sum(1)
        halves = (lengths + 1) // 2
        count = int((lengths - halves).amax().clamp(1, LONGEST))
        added = self.generate(x.tokens, halves, count)
        texts: dict[str, list[str]] = {"prompt": [], "continued": [], "true": []}
        for row, half, length, more in zip(x.tokens, halves.tolist(), lengths.tolist(), added):
            texts["prompt"].append(self.encoder.decode(row[:half]))
            texts["continued"].append(self.encoder.decode(more))
            texts["true"].append(self.encoder.decode(row[half : min(length, half + count)]))
        return dict(texts)
