"""Pairs of texts, of which the second continues the first or is from another document.

Source: Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2018, https://arxiv.org/abs/1810.04805
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.heads import near_zero
from unlabeled.parts.tokens import IGNORED

__all__ = ["Pair", "PairHead", "answers", "draw", "join"]


class Pair(NamedTuple):
    """Two texts per row: the first `border` tokens of the row, and `size` tokens of row `row` from `start` on.

    Attributes:
        border: int64, shape (batch,).
        size: int64, shape (batch,).
        row: Row that the second text is from, int64, shape (batch,).
        start: Its first token, int64, shape (batch,).
        label: 0 if the second text continues the first, 1 if it is from another document, `IGNORED` if neither is
            possible, int64, shape (batch,).
    """

    border: Tensor
    size: Tensor
    row: Tensor
    start: Tensor
    label: Tensor


def draw(sentence: Tensor, document: Tensor) -> Pair:
    """Divide each block at a random sentence, and give half of them a second text from another document.

    The second text of a block that is shorter than others, as the last one of a document is, loses up to half of itself
    at its end, because no other second text ends with a sentence except by chance.

    Args:
        sentence: Number of each token's sentence, -1 in padding, int64, shape (batch, length).
        document: int64, shape (batch,).
    """
    real = sentence >= 0
    starts = F.pad(real[:, 1:] & (sentence[:, 1:] != sentence[:, :-1]), (1, 0))
    lengths = real.sum(1)
    border = torch.where(starts.any(1), _any_column(starts), lengths)
    most = (lengths - border) // 2
    cut = (1 + torch.rand(len(real), device=real.device) * most).long().minimum(most)
    size = lengths - border - torch.where(lengths < sentence.shape[1], cut, 0)
    first = starts.int().argmax(1)
    room = torch.where(starts.any(1), lengths - first, 0)
    others = (room >= size[:, None]) & (document != document[:, None])
    possible = others.any(1) & (size > 0)
    row = _any_column(others)
    position = torch.arange(sentence.shape[1], device=real.device)
    start = _any_column(starts[row] & (position + size[:, None] <= lengths[row][:, None]))
    label = torch.where(possible, torch.randint(2, possible.shape, device=real.device), IGNORED)
    own = torch.arange(len(real), device=real.device)
    return Pair(
        border, size, torch.where(label == 1, row, own), torch.where(label == 1, start, border), label
    )


def join(tokens: Tensor, pair: Pair, first: int, separator: int) -> tuple[Tensor, Tensor, Tensor]:
    """[CLS], first text, [SEP], second text, [SEP].

    Args:
        tokens: int64, shape (batch, length).
        pair: The two texts of each row.
        first: Number of [CLS].
        separator: Number of [SEP].

    Returns:
        Tokens, int64, which of them are real, bool, and the index of their text, int64, shape (batch, length + 3) each.
    """
    position = torch.arange(tokens.shape[1] + 3, device=tokens.device)
    middle = pair.border[:, None] + 1
    end = middle + pair.size[:, None] + 1
    most = tokens.shape[1] - 1
    before = tokens.gather(1, (position - 1).clamp(0, most).expand(len(tokens), -1))
    after = tokens[pair.row].gather(1, (position - middle - 1 + pair.start[:, None]).clamp(0, most))
    both = torch.where(position < middle, before, after)
    both = torch.where((position == middle) | (position == end), separator, both)
    both[:, 0] = first
    real = position <= end
    return both.where(real, 0), real, ((position > middle) & real).long()


def answers(label: Tensor, logits: Tensor) -> list[str]:
    """What each pair is and what is predicted, in words, of labels, shape (batch,), and logits, shape (batch, 2)."""
    words = {0: "continues", 1: "another document", IGNORED: "no pair"}
    pairs = zip(label.tolist(), logits.argmax(1).tolist())
    return [f"{words[true]}; predicted: {words[predicted]}" for true, predicted in pairs]


class PairHead(nn.Module):
    """Logits of "continues" and "another document" from the state of [CLS].

    Args:
        dim: Width of the encoder.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense, self.last = nn.Linear(dim, dim), nn.Linear(dim, 2)
        for layer in (self.dense, self.last):
            near_zero(layer, std=0.02)

    def forward(self, states: Tensor) -> Tensor:
        """Logits, float, shape (batch, 2), of states of shape (batch, dim)."""
        return self.last(torch.tanh(self.dense(states)))


def _any_column(choices: Tensor) -> Tensor:
    """A random column that is True in each row, int64, shape (rows,), of bool (rows, columns); 0 if there is none."""
    return torch.rand(choices.shape, device=choices.device).add(1).mul(choices).argmax(1)
