"""Encoders of texts: a network with random weights, and a tokenizer learned from the data."""

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import from_transformers, transformers_folder
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.text_trunks import (
    NAMES,
    ROTARY,
    WINDOWS,
    TextInput,
    TokenWindow,
    Transformer,
    make_trunk,
    mean_of_real,
)
from unlabeled.encoders.tokenizer import END, Family, learn_tokenizer

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "TextEncoder", "TextInput", "build", "fitted", "mean_of_real"]

LENGTH, ROTARY_LENGTH = 128, 512
"""Tokens that an encoder reads at once, special ones included, by default; rotary positions have no weights."""

VOCABULARY = (512, 8000)
"""Fewest and most tokens of a vocabulary."""
CHARACTERS_OF_AN_ENTRY = 100
"""Characters of the data for each entry of the vocabulary: rarer entries would not be learned."""
MOST_UNKNOWN = 0.05
"""Fraction of [UNK] among the tokens above which a warning is given."""

_log = logging.getLogger("unlabeled.encoders")


class TokenWeights(nn.Module):
    """Inverse document frequencies of tokens: ln((1 + texts) / (1 + texts with it)) + 1.

    Args:
        vocabulary: Number of tokens.
    """

    idf: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.ones(vocabulary))

    def fit(self, tokens: list[list[int]]) -> None:
        """Count the texts in which each token occurs.

        Args:
            tokens: Tokens of each text.
        """
        counts = torch.zeros(len(self.idf))
        for ids in tokens:
            counts[list(set(ids))] += 1
        self.idf.copy_(((1 + len(tokens)) / (1 + counts)).log() + 1)


class TextEncoder(Encoder):
    """A network with its tokenizer.

    BERT reads `[CLS] text [SEP]` or `[CLS] text [SEP] text [SEP]`, the others `<|endoftext|> text`. The features are
    means over these tokens.

    Args:
        trunk: The network.
        config: Arguments of `build` that give this architecture again; the tokenizer is among them.
    """

    kind = "text"

    def __init__(self, trunk: Transformer | TokenWindow, config: dict[str, Any]) -> None:
        super().__init__(config, trunk.dim, trunk.map_dims)
        self.adapt = TokenWeights(trunk.embeddings.num_embeddings)
        self.trunk: Any = trunk
        self.raw_detail = (
            f"tf-idf of {self.vocabulary} word pieces among the first {self.length} of each text"
        )

    @property
    def causal(self) -> bool:
        """Whether the output at a token depends on that token and earlier ones alone."""
        return self.trunk.causal

    @property
    def overlap(self) -> int:
        """Tokens of a block that are only read, as they are predicted in the block before: those before the first
        prediction, where the network never looks ahead."""
        return self.trunk.overlap

    @property
    def family(self) -> Family:
        """bert, gpt or nplm."""
        if "architecture" in self.config:
            return "gpt" if self.causal else "bert"
        return _family(self.config["name"])

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the network has vectors for."""
        return self.trunk.embeddings.num_embeddings

    @property
    def length(self) -> int:
        """Most tokens that are read at once, special ones included."""
        return self.config["length"]

    @property
    def embeddings(self) -> nn.Embedding:
        """Vectors of the tokens, which heads that predict tokens share."""
        return self.trunk.embeddings

    @cached_property
    def tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.config["tokenizer"])

    def special(self, token: str) -> int:
        """Index of a token such as `[MASK]`, whatever the tokenizer calls it."""
        return self.tokenizer.token_to_id(self.config.get("special", {}).get(token, token))

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Indices of the tokens of texts, without `[CLS]` and the like."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Text of tokens, int64, shape (length,)."""
        ids = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def marked(self, tokens: Tensor, marks: Tensor) -> str:
        """Text of tokens, some of them in brackets.

        Args:
            tokens: Int64, shape (length,).
            marks: Which to put in brackets, bool, shape (length,).
        """
        words = []
        for token, mark in zip(tokens.tolist(), marks.tolist()):
            word = self.tokenizer.id_to_token(token)
            words.append(f"[{word}]" if mark and not word.startswith("[") else word)
        return " ".join(words).replace(" ##", "")

    def evaluation_view(self, data: "Data") -> "Data":
        """The first tokens of every text."""
        starts = getattr(data, "starts", None)
        if starts is None:
            return data
        if self.causal:
            return starts(self.encode, self.length, first=[self.special(END)])
        return starts(self.encode, self.length - 2)

    def blocks(self, data: "Data", *, pairs: bool = False) -> "Data":
        """Texts as a training reads them: all their tokens, in blocks.

        Args:
            data: Texts; tokens are returned as they are.
            pairs: Whether a block will be divided in two, so that it needs room for one more `[SEP]` and two
                sentences.
        """
        make = getattr(data, "blocks", None)
        if make is None:
            return data
        if self.causal:
            first = [self.special(END)] * self.overlap
            return make(self.encode, self.length, first=first, overlap=self.overlap)
        return make(self.encode, self.length - 2 - pairs, fewest_sentences=1 + pairs)

    def inputs(self, batch: dict[str, Tensor]) -> TextInput:
        """Tokens of a batch as the network reads them.

        Args:
            batch: `tokens` int64 and `mask` bool, shape (batch, length), as `evaluation_view` or `blocks` gives them.

        Raises:
            ValueError: The batch holds bytes of texts, or more tokens than the network has positions for.
        """
        if "sentence" not in batch:
            raise UserError(
                "batch must hold tokens of this encoder, as encoder.evaluation_view(data) gives them"
            )
        tokens, mask = batch["tokens"], batch["mask"]
        if self.family == "bert":
            tokens, mask = enclosed(tokens, mask, self.special("[CLS]"), self.special("[SEP]"))
        if tokens.shape[1] > self.length:
            raise UserError(f"batch must hold at most {self.length} tokens, got {tokens.shape[1]}")
        return TextInput(tokens, mask, torch.zeros_like(tokens))

    def forward(self, x: TextInput) -> Tensor:
        """Features, float, shape (batch, dim)."""
        return self.trunk(x)

    def states(self, x: TextInput) -> Tensor:
        """Vectors of all tokens in the last layer, float, shape (batch, length, dim)."""
        return self.trunk.last(x)

    def features(self, x: TextInput, layer: str | None = None) -> Tensor:
        """Mean over the real tokens of the last layer or of a named one: embedding, layer1, layer2 and so on."""
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return mean_of_real(self.trunk.states(x)[list(self.map_dims).index(layer)], x.mask)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Counts of the tokens times their inverse document frequencies, as unit vectors, (batch, vocabulary)."""
        tokens, mask = batch["tokens"], batch["mask"]
        counts = self.adapt.idf.new_zeros(len(tokens), len(self.adapt.idf))
        counts.scatter_add_(1, tokens, mask.to(counts.dtype))
        return nn.functional.normalize(counts * self.adapt.idf)

    def write_transformers(self, folder: str | os.PathLike[str]) -> None:
        """Write model and tokenizer as `AutoModel` and `AutoTokenizer` of transformers read them."""
        if not isinstance(self.trunk, Transformer):
            name = self.config["name"]
            raise UserError(f"encoder must be a model of transformers, got {name}. Take safetensors")
        transformers_folder.write_text_model(
            Path(folder),
            self.trunk.model,
            self.tokenizer,
            self.family,
            self.length,
            self.config.get("special"),
        )

    def read_transformers(self, folder: str | os.PathLike[str], x: TextInput | list[str]) -> Tensor:
        """Features that transformers computes from what `write_transformers` wrote.

        Args:
            folder: Where it was written.
            x: What `inputs` gives, or texts, which are then read with the tokenizer of the folder.

        Returns:
            Float, shape (batch, dim).
        """
        texts = x if isinstance(x, list) else {"input_ids": x.tokens, "attention_mask": x.mask.long()}
        return mean_of_real(*transformers_folder.read_text_states(Path(folder), texts))


def enclosed(tokens: Tensor, mask: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Put a token before and a token after each text.

    Args:
        tokens: Int64, shape (batch, length).
        mask: Which are real, those first, bool, shape (batch, length).
        first: Number of the token before.
        last: Number of the token after.

    Returns:
        Tokens and mask, shape (batch, length + 2).
    """
    tokens = nn.functional.pad(tokens.where(mask, 0), (1, 1))
    tokens[:, 0] = first
    ends = mask.sum(1, keepdim=True) + 1
    tokens = tokens.scatter(1, ends, last)
    return tokens, torch.arange(tokens.shape[1], device=tokens.device) <= ends


def build(
    name: str,
    *,
    tokenizer: str | None = None,
    length: int | None = None,
    architecture: str | None = None,
    special: dict[str, str] | None = None,
) -> TextEncoder:
    """Build an encoder of texts with random weights.

    Args:
        name: One of `NAMES`, or transformers.
        tokenizer: A tokenizer of the `tokenizers` library as JSON.
        length: Most tokens that are read at once; None takes 128, 512 for rotary positions.
        architecture: Configuration of a network of transformers as JSON.
        special: What the tokenizer calls the special tokens of `NAMES`, where it has other names for them.

    Raises:
        ValueError: There is no such name, or no tokenizer.
    """
    from tokenizers import Tokenizer

    if name == from_transformers.NAME and architecture is not None:
        return _described(architecture, tokenizer or "", length or LENGTH, special or {})
    check.choice(NAMES, encoder=name)
    if length is None:
        length = ROTARY_LENGTH if name.startswith(ROTARY) else LENGTH
    check.at_least(8, length=length)
    if tokenizer is None:
        raise UserError(f"tokenizer must be given to build {name}; encoders.fitted learns one from data")
    network = make_trunk(name, Tokenizer.from_str(tokenizer).get_vocab_size(), length)
    config = {"kind": "text", "name": name, "length": length, "tokenizer": tokenizer}
    return TextEncoder(network, config)


def _described(architecture: str, tokenizer: str, length: int, special: dict[str, str]) -> TextEncoder:
    """An encoder around a network of transformers with its own tokenizer."""
    from tokenizers import Tokenizer

    model = from_transformers.make_model(architecture).train()
    trunk = Transformer(model, from_transformers.is_causal(architecture))
    pieces, rows = Tokenizer.from_str(tokenizer).get_vocab_size(), trunk.embeddings.num_embeddings
    if pieces > rows:
        raise UserError(f"tokenizer must have at most the {rows} tokens of the network, got {pieces}")
    config = {"kind": "text", "name": from_transformers.NAME, "length": length, "tokenizer": tokenizer}
    return TextEncoder(trunk, config | {"architecture": architecture, "special": special})


def fitted(
    name: str,
    data: "Data",
    *,
    length: int | None = None,
    vocabulary: int | None = None,
    **described: Any,
) -> TextEncoder:
    """Build an encoder for texts: its tokenizer and the weights of the tokens are learned from them.

    Args:
        name: As in `build`.
        data: The texts.
        length: As in `build`.
        vocabulary: Most tokens of the vocabulary; None takes one for every 100 characters, 512 to 8,000.
        **described: Arguments of `build` that describe a network of transformers, whose tokenizer is taken.
    """
    if not described:
        check.choice(NAMES, encoder=name)
    texts = getattr(data, "texts", None)
    if not texts:
        raise UserError(f"data must be texts, got {data!r}")
    if described:
        encoder = build(name, **{**described, **({} if length is None else {"length": length})})
    else:
        encoder = build(name, length=length, tokenizer=_tokenizer_json(name, texts, vocabulary))
    tokens = encoder.encode([text[: 16 * encoder.length] for text in texts])
    encoder.adapt.fit(tokens)
    if encoder.family == "bert":
        unknown = sum(row.count(encoder.special("[UNK]")) for row in tokens) / max(sum(map(len, tokens)), 1)
        if unknown > MOST_UNKNOWN:
            _log.warning(
                f"{data.name}: {unknown:.0%} of the tokens are [UNK], words or letters that are not in the "
                f"vocabulary of {encoder.vocabulary}; gpt encoders read bytes and need no [UNK]"
            )
    return encoder


def _tokenizer_json(name: str, texts: Sequence[str], vocabulary: int | None) -> str:
    """A tokenizer learned from texts, as JSON."""
    if vocabulary is None:
        characters = sum(map(len, texts))
        vocabulary = min(max(VOCABULARY[0], characters // CHARACTERS_OF_AN_ENTRY), VOCABULARY[1])
    check.at_least(VOCABULARY[0], vocabulary=vocabulary)
    return learn_tokenizer(texts, _family(name), vocabulary).to_str()


def _family(name: str) -> Family:
    return "nplm" if name in WINDOWS else "gpt" if name.startswith("gpt") else "bert"
