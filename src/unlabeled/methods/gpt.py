"""GPT: predict the next word piece from all earlier ones.

Withheld: every piece of a text, in turn. Predicted: that piece, from those before it.

Source: Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask Learners", 2019,
https://openai.com/research/better-language-models
Differs: a text that is longer than the network's window is read in windows that share one piece, so that each piece is
predicted once. Small networks have no dropout; gpt-base drops a tenth. The optimizer is AdamW with a second beta of
0.999 and without clipping by default; usual recipes have 0.95 and a clip at 1.
Shortcut: a piece that saw itself would only be copied, so attention never looks ahead.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Fraction, NonNegative, WholeNumber
from unlabeled.parts import tokens
from unlabeled.parts.next_token import NextToken

__all__ = ["GPT"]


class GPT(NextToken, Method[TextEncoder]):
    """Predict the next word piece from all earlier ones.

    The metric `accuracy` is the fraction of pieces that are predicted correctly.

    Args:
        encoder: Network whose features are kept.
        temperature: Sampling temperature when pictures continue a text; 0 always takes the likeliest piece.
        top_k: Pictures sample from this many of the likeliest pieces; 0 for all.
        top_p: Pictures sample from the likeliest pieces until their probabilities reach this sum.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be causal, such as gpt-mini", "gpt")
    held_out = "stop"
    most_epochs = 20
    defaults: ClassVar = {"encoder": "gpt-tiny", "batch_size": 32, "lr": 1e-3, "weight_decay": 0.1}
    recipe: ClassVar = {"lr": 2e-3}

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        temperature: NonNegative = 0.8,
        top_k: WholeNumber = 40,
        top_p: Fraction = 1.0,
    ) -> None:
        super().__init__(encoder)
        self.start(temperature=temperature, top_k=top_k, top_p=top_p)

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

    def predict(self, x: TextInput, last: Tensor) -> Tensor:
        return self.logits(self.encoder.states(x)[torch.arange(len(last), device=last.device), last])
