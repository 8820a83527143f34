"""GPT: predict the next word piece from all the earlier ones.

Withheld: every piece of a text, in turn. Predicted: that piece, from those before it.

Source: Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask Learners", 2019,
https://openai.com/research/better-language-models
Differs: a text that is longer than the network's window is read in windows that share one piece, so that each piece
is predicted once. Small networks drop nothing out, as gpt-base does a tenth. The weights move by the loop's AdamW,
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
from unlabeled.parts import gather

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import TextEncoder

__all__ = ["GPT"]

CONTINUED = 32
"""Most pieces that a picture continues a text by."""


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw the next piece.

    Args:
        logits: Float, shape (batch, vocabulary).
        temperature: Divides the logits; 0 takes the likeliest piece.
        top_k: Only as many of the likeliest pieces may be drawn; 0 for all.
        top_p: Only the likeliest pieces may be drawn until their probabilities reach this sum, in 0..1.

    Returns:
        Numbers of the pieces, int64, shape (batch,).
    """
    if temperature == 0:
        return logits.argmax(1)
    values, order = logits.double().sort(dim=1, descending=True)
    shares = ((values - values[:, :1]) / temperature).softmax(
        1
    )  # differences, as quotients of logits may overflow
    allowed = shares.cumsum(1) - shares < top_p
    if top_k:
        allowed[:, top_k:] = False
    allowed[:, 0] = True
    drawn = shares.where(allowed, 0).multinomial(1)
    return order.gather(1, drawn).squeeze(1)


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
        """Loss of one who only knows how frequent each word piece is."""
        return float(self.entropy)

    def training_view(self, data: "Data") -> "Data":
        return self.encoder.blocks(data)

    def prepare(self, data: "Data") -> None:
        counts = data.counts(self.encoder.vocabulary, skip=1).double()  # type: ignore[attr-defined]
        self.entropy.copy_(torch.special.entr(counts / counts.sum()).sum())

    def forward(self, batch: Batch) -> Tensor:
        x = self.encoder.inputs(batch)
        real, truth = x.mask[:, 1:], x.tokens[:, 1:]
        logits = self.logits(self.encoder.states(x)[:, :-1][real])
        truth = truth[real]
        self.metrics = {"accuracy": (logits.detach().argmax(1) == truth).float().mean()}
        total = gather.mean_over_processes(real.sum().to(logits.dtype)).clamp(min=1)
        return F.cross_entropy(logits, truth, reduction="sum") / total

    def logits(self, states: Tensor) -> Tensor:
        """Logits of the next piece, float, shape (..., vocabulary), by the encoder's own vectors of the pieces."""
        return F.linear(states, self.encoder.embeddings.weight).float()

    def surprise(self, batch: Batch) -> Tensor:
        """Nats that each piece but the first costs, float, shape (batch, length - 1), 0 in padding."""
        x = self.encoder.inputs(batch)
        logits = self.logits(self.encoder.states(x)[:, :-1])
        costs = F.cross_entropy(logits.flatten(0, 1), x.tokens[:, 1:].flatten(), reduction="none")
        return costs.view(len(x.tokens), -1).where(x.mask[:, 1:], 0)

    @torch.no_grad()
    def continued(self, tokens: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Go on with texts.

        Args:
            tokens: Int64, shape (batch, length).
            lengths: Pieces of each text, at least 1, int64, shape (batch,).
            count: Pieces to add; what the network's window cannot hold is read no more.

        Returns:
            The pieces added, int64, shape (batch, count).
        """
        tokens = F.pad(tokens, (0, count))
        rows = torch.arange(len(tokens), device=tokens.device)
        window = torch.arange(min(self.encoder.length, tokens.shape[1]), device=tokens.device)
        added = []
        for step in range(count):
            ends = lengths + step
            begin = (ends - len(window)).clamp_min(0)
            seen = tokens.gather(1, begin[:, None] + window)
            mask = window < (ends - begin)[:, None]
            x = self.encoder.inputs({"tokens": seen, "mask": mask, "sentence": mask})
            logits = self.logits(self.encoder.states(x)[rows, ends - begin - 1])
            added.append(pick(logits, self.temperature, self.top_k, self.top_p))
            tokens[rows, ends] = added[-1]
        return torch.stack(added, dim=1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        x = self.encoder.inputs(batch)
        lengths = x.mask.sum(1)
        given = (lengths + 1) // 2
        count = int((lengths - given).amax().clamp(1, CONTINUED))
        added = self.continued(x.tokens, given, count)
        prompt, continued, true = [], [], []
        for row, start, end, more in zip(x.tokens, given.tolist(), lengths.tolist(), added):
            prompt.append(self.encoder.decode(row[:start]))
            continued.append(self.encoder.decode(more))
            true.append(self.encoder.decode(row[start : min(end, start + count)]))
        return {"prompt": prompt, "continued": continued, "true": true}
