"""Tokens of texts: which to mask, how to score predictions of them, how to continue a text."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts import gather
from unlabeled.parts.heads import near_zero

__all__ = [
    "IGNORED",
    "TokenHead",
    "accuracy",
    "candidates",
    "choose",
    "continuations",
    "corrupt",
    "cross_entropy",
    "entropy",
    "generate",
    "mark",
    "mask",
    "sample",
]

IGNORED = -100
"""Label of a prediction that does not count."""


def entropy(counts: Tensor) -> Tensor:
    """Loss of always predicting the frequencies of the tokens, in nats, scalar, of counts, shape (vocabulary,)."""
    counts = counts.cpu().double()  # an Apple GPU has no float64
    return torch.special.entr(counts / counts.sum()).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over the labels of all processes that are not `IGNORED`, scalar, in nats.

    Args:
        logits: Float, shape (predictions, classes).
        labels: int64, shape (predictions,).
    """
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / gather.count(labels != IGNORED, logits.dtype)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of the labels other than `IGNORED` that are predicted, scalar, in 0..1; 0 if there is none.

    Args:
        logits: Float, shape (predictions, classes).
        labels: int64, shape (predictions,).
    """
    right = (logits.argmax(1) == labels).sum()
    return right / (labels != IGNORED).sum().clamp_min(1)


def choose(candidates: Tensor, lengths: Tensor, ratio: float) -> Tensor:
    """Choose tokens at random, max(1, round(ratio * length)) of each text.

    Args:
        candidates: Which may be chosen, bool, shape (batch, length).
        lengths: Tokens of each text, special ones included, int64, shape (batch,).
        ratio: Fraction to choose, in 0..1.

    Returns:
        Bool, shape (batch, length).
    """
    counts = (ratio * lengths.double()).round().clamp_min(1)
    order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2).argsort(1)
    return (order.argsort(1) < counts[:, None]) & candidates


def corrupt(tokens: Tensor, targets: Tensor, mask_token: int, vocabulary: int) -> Tensor:
    """Replace 80 % of the chosen tokens by [MASK] and 10 % by any entry of the vocabulary.

    Args:
        tokens: int64, shape (batch, length).
        targets: Which tokens are to be predicted, bool, shape (batch, length).
        mask_token: Number of [MASK].
        vocabulary: Number of entries.

    Returns:
        int64, shape (batch, length).
    """
    fate = torch.rand(tokens.shape, device=tokens.device)
    anything = torch.randint(vocabulary, tokens.shape, device=tokens.device)
    replacement = torch.where(fate < 0.8, mask_token, torch.where(fate < 0.9, anything, tokens))
    return torch.where(targets, replacement, tokens)


def mask(encoder: Any, x: Any, ratio: float) -> tuple[Any, Tensor]:
    """Choose and corrupt tokens of texts, special ones aside.

    Args:
        encoder: An encoder of texts with [CLS], [SEP] and [MASK].
        x: What it reads, a named tuple with `tokens`, int64, and `mask`, bool, which are real, shape (batch, length).
        ratio: Fraction of the tokens to choose, in 0..1.

    Returns:
        The same with corrupted tokens, and which are to be predicted, bool, shape (batch, length).
    """
    targets = choose(candidates(encoder, x), x.mask.sum(1), ratio)
    return x._replace(
        tokens=corrupt(x.tokens, targets, encoder.special("[MASK]"), encoder.vocabulary)
    ), targets


def candidates(encoder: Any, x: Any) -> Tensor:
    """Which tokens are real and not [CLS] or [SEP], bool, shape (batch, length); arguments as those of `mask`."""
    return x.mask & (x.tokens != encoder.special("[CLS]")) & (x.tokens != encoder.special("[SEP]"))


def mark(encoder: Any, rows: Tensor, targets: Tensor, real: Tensor) -> list[str]:
    """Texts of the `real` ones of tokens, int64, shape (batch, length), in which the targets are marked."""
    return [encoder.marked(row[mask], marks[mask]) for row, marks, mask in zip(rows, targets, real)]


def sample(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw the next token.

    Args:
        logits: Float, shape (batch, vocabulary).
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Draw from this many of the most likely tokens; 0 for all.
        top_p: Draw from the most likely tokens until their probabilities reach this sum, in 0..1.

    Returns:
        Numbers of the tokens, int64, shape (batch,).
    """
    if temperature == 0:
        return logits.argmax(1)
    values, order = logits.double().sort(dim=1, descending=True)
    differences = values - values[:, :1]  # quotients of the logits themselves may overflow
    probabilities = (differences / temperature).softmax(1)
    allowed = probabilities.cumsum(1) - probabilities < top_p
    if top_k:
        allowed[:, top_k:] = False
    allowed[:, 0] = True
    return order.gather(1, probabilities.where(allowed, 0).multinomial(1)).squeeze(1)


@torch.no_grad()
def generate(
    encoder: Any,
    predict: Callable[[Any, Tensor], Tensor],
    texts: Tensor,
    lengths: Tensor,
    count: int,
    **sampling: Any,
) -> Tensor:
    """Continue texts token by token.

    Args:
        encoder: An encoder of texts, which reads the latest tokens that fit into its window.
        predict: Function from what the encoder reads and the place of the latest token of each text, int64, shape
            (batch,), to logits of the next token.
        texts: int64, shape (batch, length).
        lengths: Tokens of each text, at least 1, int64, shape (batch,).
        count: Tokens to add.
        **sampling: `temperature`, `top_k` and `top_p` of `sample`.

    Returns:
        The added tokens, int64, shape (batch, count).
    """
    texts = F.pad(texts, (0, count))
    rows = torch.arange(len(texts), device=texts.device)
    window = torch.arange(min(encoder.length, texts.shape[1]), device=texts.device)
    for step in range(count):
        ends = lengths + step
        begin = (ends - len(window)).clamp_min(0)
        real = window < (ends - begin)[:, None]
        visible = texts.gather(1, begin[:, None] + window)
        x = encoder.inputs({"tokens": visible, "mask": real, "sentence": real})
        texts[rows, ends] = sample(predict(x, ends - begin - 1), **sampling)
    return texts.gather(1, lengths[:, None] + torch.arange(count, device=texts.device))


def continuations(
    encoder: Any, x: Any, generate: Callable[[Tensor, Tensor, int], Tensor], most: int = 32
) -> dict[str, list[str]]:
    """The first half of each text, what is made of it, and the truth.

    Args:
        encoder: An encoder of texts; the `overlap` tokens that it only reads stay in the first half.
        x: What it reads, a named tuple with `tokens`, int64, and `mask`, bool, which are real, shape (batch, length).
        generate: Continues texts, shape (batch, length), of so many tokens each, shape (batch,), by a number of them.
        most: Most tokens to add.
    """
    lengths = x.mask.sum(1)
    halves = (lengths + encoder.overlap) // 2
    count = int((lengths - halves).amax().clamp(1, most))
    added = generate(x.tokens, halves, count)
    rows = list(zip(x.tokens, halves.tolist(), lengths.tolist()))
    return {
        "prompt": [encoder.decode(row[encoder.overlap - 1 : half]) for row, half, _ in rows],
        "continued": [encoder.decode(row) for row in added],
        "true": [encoder.decode(row[half : min(length, half + count)]) for row, half, length in rows],
    }


class TokenHead(nn.Module):
    """Logits of tokens: one layer, then the encoder's own vectors of the tokens, and biases.

    Args:
        dim: Width of the encoder's own vectors of the tokens.
        vocabulary: Number of tokens.
        width: Width of the states; None for the same.
    """

    def __init__(self, dim: int, vocabulary: int, width: int | None = None) -> None:
        super().__init__()
        self.dense, self.norm = (
            near_zero(nn.Linear(width or dim, dim), std=0.02),
            nn.LayerNorm(dim, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Logits, float, shape (tokens, vocabulary), of states of shape (tokens, width)."""
        return F.linear(self.norm(F.gelu(self.dense(states))), vectors, self.bias)
