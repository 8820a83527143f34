"""BERT: fill in masked words from both sides, and predict whether one text continues another.

Withheld: 15 % of the word pieces, and in half of the pairs the true continuation. Predicted: these pieces, and whether
the second text of a pair continues the first.

Source: Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2018, https://arxiv.org/abs/1810.04805
With `--encoder bert-rotary-tiny --hidden-ratio 0.3 --no-next-sentence` it is the recipe of ModernBERT: Warner, Chaffin,
Clavié and others, "Smarter, Better, Faster, Longer", 2024, https://arxiv.org/abs/2412.13663. Losses and accuracies at
different ratios are not comparable.
Differs: pieces are masked anew each time a text is read; pairs are made within the batch, each random with probability
one half, where the authors' code also counts every single-sentence chunk as random (58 % of pairs on Wikipedia). Small
networks have no dropout, bert-base has 0.1. Blocks have 128 tokens. The optimizer is AdamW with an eps of 1e-8, a
cosine schedule and no clipping by default; the authors' has 1e-6, no bias correction, a linear decay and a clip at 1.
Encoders with rotary positions have no segments, so that [SEP] alone separates pairs; ModernBERT's batches also pack
several texts into one row.
Shortcut: if a masked piece always appeared as [MASK], nothing would prepare for texts without masks, so a tenth of them
stays as it is and a tenth becomes a random piece. A random second text comes from another document, starts with a
sentence, and is cut to the length of the true one, so that neither lengths nor ends identify it.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.notes import note
from unlabeled.data.text.data import Texts
from unlabeled.data.text.sentences import sentences
from unlabeled.data.text.tokens import Tokens
from unlabeled.encoders.text import TextEncoder, TextInput
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import PositiveFraction
from unlabeled.parts import sentence_pairs, tokens

__all__ = ["BERT"]


class BERT(Method[TextEncoder]):
    """Fill in masked words from both sides, and predict whether one text continues another.

    The metrics are the accuracies on masked words and on pairs.

    Args:
        encoder: Network whose features are kept.
        hidden_ratio: Fraction of the word pieces that is to be predicted.
        next_sentence: Also classify pairs of texts as consecutive or not; texts of a single sentence are left out.
            [default: on, unless most texts have a single sentence or all are of one document]
    """

    kind = "text"
    encoder_needs = EncoderNeeds("family", "be bidirectional, such as bert-mini", "bert")
    held_out = "stop"
    most_epochs = 100
    defaults: ClassVar = {"encoder": "bert-tiny", "batch_size": 32, "lr": 1e-3, "weight_decay": 0.01}
    entropy: Tensor

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        hidden_ratio: PositiveFraction = 0.15,
        next_sentence: bool | None = None,
    ) -> None:
        super().__init__(encoder)
        self.hidden_ratio, self.next_sentence = hidden_ratio, next_sentence
        self.words = tokens.TokenHead(self.encoder.dim, self.encoder.vocabulary)
        self.next = sentence_pairs.PairHead(self.encoder.dim) if next_sentence is not False else None
        self.register_buffer("entropy", torch.tensor(math.log(self.encoder.vocabulary)))
        self.counted = False

    def chance(self, samples: int) -> float:
        return float(self.entropy) + (self.next is not None) * math.log(2)  # by frequency, and guessing pairs

    def training_view(self, data: Data) -> Data:
        if isinstance(data, Texts) and self.next is not None and not self.counted:
            self._count_sentences(data)
        return self.encoder.blocks(data, pairs=self.next is not None)

    def _count_sentences(self, data: Texts) -> None:
        """Say how many texts cannot be paired; switch pairs off where that is left open and these are most."""
        self.counted = True  # of the training data, and not of what is held out of it
        documents = data.whole()
        single = sum(len(sentences(text)) < 2 for text in documents)
        count = f"{single:,} of {len(documents):,} texts have a single sentence"
        off = 2 * single > len(documents) or len(documents) < 2
        if self.next_sentence is None:
            self.next_sentence, self.next = not off, None if off else self.next
            self.choose(next_sentence=self.next_sentence)
            if off:
                why = f"{count}; --next-sentence switches it on"
                why = "there is a single document" if len(documents) < 2 else why
                note(f"next_sentence is off, as {why}")
                return
        if single:
            note(f"{count} and are left out, as next_sentence needs two; --no-next-sentence trains on all")

    def prepare(self, data: Tokens) -> None:
        if self.next is not None and (data.documents is None or len(data.documents.unique()) < 2):
            raise UserError(
                f"next_sentence must be off for a single document (--no-next-sentence), got {data.name}"
            )
        self.entropy.copy_(tokens.entropy(data.counts(self.encoder.vocabulary)))

    def forward(self, batch: Batch) -> Tensor:
        if self.training and self.next is not None and len(batch["tokens"]) < 2:
            raise UserError("batch_size must be at least 2 for next_sentence, to pair texts, got 1")
        x, masked, truth, label = self.task(batch)
        states = self.encoder.states(x)
        logits, truth = self.words(states[masked], self.encoder.embeddings.weight).float(), truth[masked]
        loss = tokens.cross_entropy(logits, truth)
        self.metrics = {"hidden_accuracy": (logits.detach().argmax(1) == truth).float().mean()}
        if self.next is None or label is None:
            return loss
        logits = self.next(states[:, 0]).float()
        self.metrics["next_accuracy"] = tokens.accuracy(logits.detach(), label)
        return loss + tokens.cross_entropy(logits, label)

    def task(self, batch: Batch) -> tuple[TextInput, Tensor, Tensor, Tensor | None]:
        """What the encoder sees, which pieces are masked, all true pieces, and the labels of the pairs."""
        x, label = self.encoder.inputs(batch), None
        if self.next is not None:
            pair = sentence_pairs.draw(batch["sentence"], batch["document"])
            special = (self.encoder.special(token) for token in ("[CLS]", "[SEP]"))
            x, label = type(x)(*sentence_pairs.join(batch["tokens"], pair, *special)), pair.label
        return *tokens.mask(self.encoder, x, self.hidden_ratio), x.tokens, label

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        x, masked, truth, label = self.task(batch)
        states = self.encoder.states(x)
        predicted = self.words(states[masked], self.encoder.embeddings.weight).argmax(1)
        rows = {"masked": x.tokens, "predicted": truth.masked_scatter(masked, predicted), "true": truth}
        texts = {name: tokens.mark(self.encoder, row, masked, x.mask) for name, row in rows.items()}
        if self.next is None or label is None:
            return texts
        return {**texts, "pair": sentence_pairs.answers(label, self.next(states[:, 0]))}
