"""Shared code of methods that predict the next token of a text."""

import math
from typing import Any

import torch
from torch import Tensor

from unlabeled.parts import tokens

__all__ = ["NextToken"]


class NextToken:
    """Base beside `Method` of methods that predict tokens from earlier ones, with `predict`, and `sampling` options."""

    encoder: Any
    entropy: Tensor
    sampling: dict[str, Any]

    def start(self, **sampling: float) -> None:
        """Set the options of `tokens.sample`, and chance to that of equally likely tokens."""
        self.sampling = sampling
        self.register_buffer("entropy", torch.tensor(math.log(self.encoder.vocabulary)))  # type: ignore[attr-defined]

    def chance(self, samples: int) -> float:
        """Loss of a method that knows only the frequencies of the word pieces."""
        return float(self.entropy)

    def training_view(self, data: Any) -> Any:
        return self.encoder.blocks(data)

    def prepare(self, data: Any) -> None:
        """Count the tokens that are predicted."""
        self.entropy.copy_(tokens.entropy(data.counts(self.encoder.vocabulary, skip=self.encoder.overlap)))

    def predict(self, x: Any, last: Tensor) -> Tensor:
        """Logits of what follows a place of each text, float, shape (batch, vocabulary).

        Args:
            x: What the encoder reads.
            last: The places, int64, shape (batch,).
        """
        raise NotImplementedError

    def generate(self, texts: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Continue texts, int64, shape (batch, length), by `count` pieces, int64, shape (batch, count)."""
        return tokens.generate(self.encoder, self.predict, texts, lengths, count, **self.sampling)

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> dict[str, list[str]]:
        return tokens.continuations(self.encoder, self.encoder.inputs(batch), self.generate)
