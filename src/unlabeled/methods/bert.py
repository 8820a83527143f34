"""BERT: fill in hidden words from both sides, and tell whether a text goes on with another.

Withheld: 15 % of the word pieces, and in half of the pairs the true continuation. Predicted: these pieces, and whether
the second text of a pair is the continuation of the first.

Source: Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2018, https://arxiv.org/abs/1810.04805
Differs: words are hidden anew each time a text is seen; pairs are made inside the batch, each random by the throw of
a coin, where the authors' code also takes every single-sentence chunk for a random one (58 % of pairs on Wikipedia).
Small networks drop nothing out; the dropout of 0.1 is that of bert-base alone. The weights move by the loop's AdamW
with an eps of 1e-8 and a cosine, without clipping by default; the authors' have an eps of 1e-6, no correction of the
first steps, a linear decline and a clip at 1. Blocks have 128 tokens throughout.
Shortcut: a hidden word that was always shown as [MASK] would not prepare for texts without masks, so a tenth of them
stays as it is and a tenth becomes a random piece. A random second text comes from another document, starts with a
sentence, and is cut to the length of the true one, so that neither lengths nor ends tell it apart.
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.text.data import Texts
from unlabeled.data.text.tokens import Tokens
from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import PositiveFraction
from unlabeled.parts import gather

__all__ = ["BERT"]

UNKNOWN = -100
"""Label of a pair that is none."""


def hidden(candidates: Tensor, lengths: Tensor, ratio: float) -> Tensor:
    """Choose pieces at random, max(1, round(ratio * length)) of each text.

    Args:
        candidates: Which may be chosen, bool, shape (batch, length).
        lengths: Pieces of each text, [CLS] and [SEP] included, int64, shape (batch,).
        ratio: Share that is chosen, in 0..1.

    Returns:
        Bool, shape (batch, length).
    """
    counts = (ratio * lengths.double()).round().clamp_min(1)
    order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2).argsort(1)
    return (order.argsort(1) < counts[:, None]) & candidates


def corrupted(tokens: Tensor, chosen: Tensor, mask_token: int, vocabulary: int) -> Tensor:
    """Replace 80 % of the chosen pieces by [MASK] and 10 % by any entry of the vocabulary.

    Args:
        tokens: Int64, shape (batch, length).
        chosen: Which are to be predicted, bool, shape (batch, length).
        mask_token: Number of [MASK].
        vocabulary: Number of entries.

    Returns:
        Int64, shape (batch, length).
    """
    fate = torch.rand(tokens.shape, device=tokens.device)
    anything = torch.randint(vocabulary, tokens.shape, device=tokens.device)
    replaced = torch.where(fate < 0.8, mask_token, torch.where(fate < 0.9, anything, tokens))
    return torch.where(chosen, replaced, tokens)


class Pair(NamedTuple):
    """Two texts in one row: the first `border` pieces of the row, and `size` pieces of a row from `start` on.

    Attributes:
        border: Int64, shape (batch,).
        size: Int64, shape (batch,).
        row: Where the second text is from, int64, shape (batch,).
        start: Its first piece, int64, shape (batch,).
        label: 0 where the second text goes on with the first, 1 where it is from another document, -100 where neither
            could be, int64, shape (batch,).
    """

    border: Tensor
    size: Tensor
    row: Tensor
    start: Tensor
    label: Tensor


def paired(sentence: Tensor, document: Tensor) -> Pair:
    """Divide each block at a random sentence, and give half of them another document's second text.

    The second text of a block that is shorter than others, as the last one of a document is, loses up to half of itself
    at its end: no other second text ends with a sentence either, but by chance.

    Args:
        sentence: Number of each piece's sentence, -1 in padding, int64, shape (batch, length).
        document: Int64, shape (batch,).
    """
    real = sentence >= 0
    starts = F.pad(real[:, 1:] & (sentence[:, 1:] != sentence[:, :-1]), (1, 0))
    lengths = real.sum(1)
    border = torch.where(starts.any(1), _any(starts), lengths)
    most = (lengths - border) // 2
    cut = (1 + torch.rand(len(real), device=real.device) * most).long().minimum(most)
    size = lengths - border - torch.where(lengths < sentence.shape[1], cut, 0)
    first = starts.int().argmax(1)
    room = torch.where(starts.any(1), lengths - first, 0)
    others = (room >= size[:, None]) & (document != document[:, None])
    possible = others.any(1) & (size > 0)
    row = _any(others)
    position = torch.arange(sentence.shape[1], device=real.device)
    start = _any(starts[row] & (position + size[:, None] <= lengths[row][:, None]))
    label = torch.where(possible, torch.randint(2, possible.shape, device=real.device), UNKNOWN)
    own = torch.arange(len(real), device=real.device)
    return Pair(
        border, size, torch.where(label == 1, row, own), torch.where(label == 1, start, border), label
    )


def joined(tokens: Tensor, pair: Pair, first: int, separator: int) -> tuple[Tensor, Tensor, Tensor]:
    """[CLS], first text, [SEP], second text, [SEP].

    Args:
        tokens: Int64, shape (batch, length).
        pair: What the texts are.
        first: Number of [CLS].
        separator: Number of [SEP].

    Returns:
        Tokens int64, which are real bool, and the number of the text int64, shape (batch, length + 3) each.
    """
    position = torch.arange(tokens.shape[1] + 3, device=tokens.device)
    middle = pair.border[:, None] + 1
    end = middle + pair.size[:, None] + 1
    most = tokens.shape[1] - 1
    before = tokens.gather(1, (position - 1).clamp(0, most).expand(len(tokens), -1))
    behind = tokens[pair.row].gather(1, (position - middle - 1 + pair.start[:, None]).clamp(0, most))
    both = torch.where(position < middle, before, behind)
    both = torch.where((position == middle) | (position == end), separator, both)
    both[:, 0] = first
    mask = position <= end
    return both.where(mask, 0), mask, ((position > middle) & mask).long()


class Words(nn.Module):
    """Logits of word pieces: one layer, then the vectors that the encoder has of the pieces, and biases.

    Args:
        dim: Width of the encoder.
        vocabulary: Number of pieces.
    """

    def __init__(self, dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)

    def forward(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Logits, float, shape (pieces, vocabulary), of states of shape (pieces, dim)."""
        return F.linear(self.norm(F.gelu(self.dense(states))), vectors, self.bias)


class Next(nn.Module):
    """Logits of "goes on" and "another document" from the vector of [CLS].

    Args:
        dim: Width of the encoder.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense, self.last = nn.Linear(dim, dim), nn.Linear(dim, 2)
        for layer in (self.dense, self.last):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Logits, float, shape (batch, 2), of states of shape (batch, dim)."""
        return self.last(torch.tanh(self.dense(states)))


class BERT(Method[TextEncoder]):
    """Fill in hidden words from both sides, and tell whether a text goes on with another.

    The metrics are the accuracies on hidden words and on pairs.

    Args:
        encoder: Network whose features are kept.
        hidden_ratio: Fraction of the word pieces that is to be predicted.
        next_sentence: Also classify pairs of texts as consecutive or not; needs documents of several sentences.
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be one that reads both sides, such as bert-mini", "bert")
    held_out = "stop"
    most_epochs = 100
    defaults: ClassVar = {"encoder": "bert-tiny", "batch_size": 32, "lr": 1e-3, "weight_decay": 0.01}
    entropy: Tensor

    def __init__(
        self, encoder: TextEncoder, *, hidden_ratio: PositiveFraction = 0.15, next_sentence: bool = True
    ) -> None:
        super().__init__(encoder)
        self.hidden_ratio = hidden_ratio
        self.words = Words(self.encoder.dim, self.encoder.vocabulary)
        self.next = Next(self.encoder.dim) if next_sentence else None
        self.special = [self.encoder.special(token) for token in ("[CLS]", "[SEP]", "[MASK]")]
        self.register_buffer("entropy", torch.tensor(math.log(self.encoder.vocabulary)))

    def chance(self, samples: int) -> float:
        """Loss of one who only knows how frequent each word piece is, and throws a coin for pairs."""
        return float(self.entropy) + (self.next is not None) * math.log(2)

    def training_view(self, data: Texts) -> Data:
        return self.encoder.blocks(data, pairs=self.next is not None)

    def prepare(self, data: Tokens) -> None:
        if self.next is not None and len(data.documents.unique()) < 2:
            raise UserError(f"next_sentence must be off for a single document, got {data.name}")
        counts = data.counts(self.encoder.vocabulary).double()
        self.entropy.copy_(torch.special.entr(counts / counts.sum()).sum())

    def forward(self, batch: Batch) -> Tensor:
        if self.training and self.next is not None and len(batch["tokens"]) < 2:
            raise UserError(
                "batch_size must be at least 2 for next_sentence, whose pairs are of a batch, got 1"
            )
        x, chosen, tokens, label = self.task(batch)
        states = self.encoder.states(x)
        logits, truth = self.words(states[chosen], self.encoder.embeddings.weight).float(), tokens[chosen]
        loss = _mean_over_all(logits, truth)
        self.metrics = {"hidden_accuracy": (logits.detach().argmax(1) == truth).float().mean()}
        if self.next is None or label is None:
            return loss
        logits, known = self.next(states[:, 0]).float(), label != UNKNOWN
        right = (logits.detach().argmax(1) == label).sum()
        self.metrics["next_accuracy"] = right / known.sum().clamp_min(1)
        return loss + _mean_over_all(logits, label)

    def task(self, batch: Batch) -> tuple[TextInput, Tensor, Tensor, Tensor | None]:
        """What the encoder sees, which pieces are to be predicted, what they are, and the labels of the pairs."""
        cls, separator, mask_token = self.special
        x, label = self.encoder.inputs(batch), None
        if self.next is not None:
            pair = paired(batch["sentence"], batch["document"])
            x, label = type(x)(*joined(batch["tokens"], pair, cls, separator)), pair.label
        candidates = x.mask & (x.tokens != cls) & (x.tokens != separator)
        chosen = hidden(candidates, x.mask.sum(1), self.hidden_ratio)
        shown = corrupted(x.tokens, chosen, mask_token, self.encoder.vocabulary)
        return x._replace(tokens=shown), chosen, x.tokens, label

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        x, chosen, tokens, label = self.task(batch)
        states = self.encoder.states(x)
        guessed = tokens.clone()
        guessed[chosen] = self.words(states[chosen], self.encoder.embeddings.weight).argmax(1)
        shown = {"masked": x.tokens, "predicted": guessed, "true": tokens}
        found: Pictures = {
            name: [self.encoder.marked(*row) for row in zip(_cut(ids, x.mask), _cut(chosen, x.mask))]
            for name, ids in shown.items()
        }
        if self.next is not None and label is not None:
            words = {0: "goes on", 1: "another document", UNKNOWN: "no pair"}
            guesses = self.next(states[:, 0]).argmax(1).tolist()
            found["pair"] = [
                f"{words[truth]}; predicted: {words[guess]}" for truth, guess in zip(label.tolist(), guesses)
            ]
        return found


def _mean_over_all(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, mean over the known answers of all processes."""
    known = gather.mean_over_processes((truth != UNKNOWN).sum().to(logits.dtype))
    return F.cross_entropy(logits, truth, reduction="sum") / known.clamp(min=1)


def _any(choices: Tensor) -> Tensor:
    """A random column where True in each row, int64, shape (rows,), of bool, shape (rows, columns); 0 where none is."""
    return torch.rand(choices.shape, device=choices.device).add(1).mul(choices).argmax(1)


def _cut(rows: Tensor, mask: Tensor) -> list[Tensor]:
    """Rows without their padding."""
    return [row[real] for row, real in zip(rows, mask)]
