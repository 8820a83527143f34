"""Encoders of texts: the transformers of BERT and GPT-2 with random weights, and a tokenizer learned from the data."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders.encoder import Encoder
from unlabeled.parts.vocabulary import SOUTH_EAST_ASIAN

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "TextEncoder", "TextInput", "build", "fitted"]

NAMES: dict[str, tuple[int, int, int]] = {
    "bert-tiny": (2, 128, 2),
    "bert-mini": (4, 256, 4),
    "bert-small": (4, 512, 8),
    "bert-medium": (8, 512, 8),
    "bert-base": (12, 768, 12),
    "gpt-tiny": (2, 128, 2),
    "gpt-mini": (4, 256, 4),
    "gpt-small": (4, 512, 8),
    "gpt-medium": (8, 512, 8),
    "gpt-base": (12, 768, 12),
}
"""Layers, width and attention heads by name; `gpt-base` is the smallest GPT-2."""

LENGTH = 128
"""Tokens that an encoder reads at once, its own ones included."""

VOCABULARY = (512, 8000)
"""Fewest and most tokens of a vocabulary."""
CHARACTERS_OF_AN_ENTRY = 100
"""Characters of the data for one entry of the vocabulary: rarer ones would not be learned."""
MOST_UNKNOWN = 0.05
"""Share of tokens that are [UNK] from which on it is said."""
MOST_CHARACTERS = 20_000_000
"""Characters that the tokenizer is learned from."""

_log = logging.getLogger("unlabeled.encoders")

Family = Literal["bert", "gpt"]


class TextInput(NamedTuple):
    """What the network reads.

    Attributes:
        tokens: Numbers of tokens, int64, shape (batch, length).
        mask: Which tokens are real, bool, shape (batch, length).
        segment: 1 in the second of two texts, else 0, int64, shape (batch, length).
    """

    tokens: Tensor
    mask: Tensor
    segment: Tensor


class Weights(nn.Module):
    """How much each token tells: ln((1 + texts) / (1 + texts with it)) + 1.

    Args:
        vocabulary: Number of tokens.
    """

    idf: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.ones(vocabulary))

    def fit(self, tokens: list[list[int]]) -> None:
        """Count the texts that each token stands in.

        Args:
            tokens: Of each text.
        """
        found = torch.zeros(len(self.idf))
        for ids in tokens:
            found[list(set(ids))] += 1
        self.idf.copy_(((1 + len(tokens)) / (1 + found)).log() + 1)


class Transformer(nn.Module):
    """A model of transformers whose vector is the mean over the real tokens of the last layer.

    Args:
        model: `BertModel` or `GPT2Model`.
        causal: Whether a token sees only earlier ones; padding at the end then needs no mask.
    """

    def __init__(self, model: Any, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal
        self.dim: int = model.config.hidden_size
        layers = model.config.num_hidden_layers
        self.map_dims = {name: self.dim for name in ["embedding", *(f"layer{n + 1}" for n in range(layers))]}

    def states(self, x: TextInput) -> list[Tensor]:
        """Embedding and every layer's output, float, shape (batch, length, dim) each."""
        return list(self._run(x, output_hidden_states=True).hidden_states)

    def last(self, x: TextInput) -> Tensor:
        """The last layer's output, float, shape (batch, length, dim)."""
        return self._run(x).last_hidden_state

    def forward(self, x: TextInput) -> Tensor:
        """Features, float, shape (batch, dim)."""
        return mean_of_real(self.last(x), x.mask)

    def _run(self, x: TextInput, **options: Any) -> Any:
        if self.causal:
            return self.model(input_ids=x.tokens, use_cache=False, **options)
        return self.model(
            input_ids=x.tokens, attention_mask=x.mask.long(), token_type_ids=x.segment, **options
        )


def mean_of_real(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens.

    Args:
        states: Float, shape (batch, length, dim).
        mask: Which tokens are real, bool, shape (batch, length).

    Returns:
        Float, shape (batch, dim); zeros where no token is real.
    """
    weights = mask.to(states.dtype)
    return torch.einsum("bld,bl->bd", states, weights) / weights.sum(1, keepdim=True).clamp_min(1)


class TextEncoder(Encoder):
    """A transformer with its tokenizer.

    BERT reads `[CLS] text [SEP]` or `[CLS] text [SEP] text [SEP]`, GPT `<|endoftext|> text`. The features are means
    over these tokens.

    Args:
        adapt: Weights of the tokens for `raw`.
        trunk: The network.
        config: Arguments of `build` that give this architecture again; the tokenizer is among them.
    """

    kind = "text"

    @property
    def family(self) -> Family:
        """bert or gpt."""
        return _family(self.config["name"])

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.tokenizer.get_vocab_size()

    @property
    def length(self) -> int:
        """Most tokens that are read at once, its own ones included."""
        return self.config["length"]

    @property
    def embeddings(self) -> nn.Embedding:
        """Vectors of the tokens, which heads that name tokens share."""
        return self.trunk.model.get_input_embeddings()

    @property
    def raw_detail(self) -> str:  # type: ignore[override]
        return f"tf-idf of {self.vocabulary} word pieces in the same tokens"

    @cached_property
    def tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.config["tokenizer"])

    def special(self, token: str) -> int:
        """Number of a token such as `[MASK]`."""
        return self.tokenizer.token_to_id(token)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Numbers of the tokens of texts, without `[CLS]` and the like."""
        return [
            encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Text of tokens, int64, shape (length,)."""
        ids = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def marked(self, tokens: Tensor, marks: Tensor) -> str:
        """Text of tokens, some of them in brackets.

        Args:
            tokens: Int64, shape (length,).
            marks: Which stand in brackets, bool, shape (length,).
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
        if self.family == "gpt":
            return starts(self.encode, self.length, first=[self.special(END)])
        return starts(self.encode, self.length - 2)

    def blocks(self, data: "Data", *, pairs: bool = False) -> "Data":
        """Texts as a training reads them: all their tokens, in blocks.

        Args:
            data: Texts; what is tokens already is returned as it is.
            pairs: Whether a block is to be divided in two, so that it needs room for one more `[SEP]` and two
                sentences.
        """
        make = getattr(data, "blocks", None)
        if make is None:
            return data
        if self.family == "gpt":
            return make(self.encode, self.length, first=[self.special(END)], overlap=1)
        return make(self.encode, self.length - 2 - pairs, fewest_sentences=1 + pairs)

    def inputs(self, batch: dict[str, Tensor]) -> TextInput:
        """Tokens of a batch as the network reads them.

        Args:
            batch: `tokens` int64 and `mask` bool, shape (batch, length), of what `reads` or `blocks` gave.

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
        """Mean over the real tokens, of the last layer or of a named one.

        Args:
            x: What `inputs` gives.
            layer: "embedding", "layer1", "layer2" and so on; None for the last.

        Returns:
            Float, shape (batch, dim).

        Raises:
            ValueError: The layer does not exist.
        """
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return mean_of_real(self.trunk.states(x)[list(self.map_dims).index(layer)], x.mask)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Counts of the tokens times how much they tell, of length 1, float, shape (batch, vocabulary)."""
        tokens, mask = batch["tokens"], batch["mask"]
        counts = self.adapt.idf.new_zeros(len(tokens), len(self.adapt.idf))
        counts.scatter_add_(1, tokens, mask.to(counts.dtype))
        return nn.functional.normalize(counts * self.adapt.idf)

    def write_transformers(self, folder: str | os.PathLike[str]) -> None:
        """Write model and tokenizer as `AutoModel` and `AutoTokenizer` of transformers read them."""
        from transformers import PreTrainedTokenizerFast

        named = (
            {"pad_token": END, "eos_token": END, "bos_token": END, "unk_token": END}
            if self.family == "gpt"
            else {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        )
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer, model_max_length=self.length, padding_side="right", **named
        )
        with _quiet():
            tokenizer.save_pretrained(folder)
            self.trunk.model.save_pretrained(folder)

    def read_transformers(self, folder: str | os.PathLike[str], x: TextInput | list[str]) -> Tensor:
        """Features that transformers computes from what `write_transformers` wrote.

        Args:
            folder: Where it was written.
            x: What `inputs` gives, or texts, which are then read with the tokenizer of the folder.

        Returns:
            Float, shape (batch, dim).
        """
        from transformers import AutoModel, AutoTokenizer

        with _quiet():
            model = AutoModel.from_pretrained(str(Path(folder))).eval()
        if isinstance(x, TextInput):
            given: Any = {"input_ids": x.tokens, "attention_mask": x.mask.long()}
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(Path(folder)))
            given = dict(tokenizer(x, padding=True, truncation=True, return_tensors="pt"))
        with torch.no_grad():
            states = model(**given).last_hidden_state
        return mean_of_real(states, given["attention_mask"].bool())


END = "<|endoftext|>"
_BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


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


def build(config: dict[str, Any]) -> TextEncoder:
    """Build an encoder of texts with random weights.

    Args:
        config: `name`, one of `NAMES`; `tokenizer`, a tokenizer of the `tokenizers` library as JSON; perhaps `length`,
            most tokens that are read at once.

    Raises:
        ValueError: There is no such name, or no tokenizer.
    """
    from tokenizers import Tokenizer

    config = {"length": LENGTH, **config}
    name, length = config["name"], config["length"]
    check.choice(NAMES, encoder=name)
    check.at_least(8, length=length)
    if "tokenizer" not in config:
        raise UserError(f"tokenizer must be given to build {name}; encoders.fitted learns one from data")
    vocabulary = Tokenizer.from_str(config["tokenizer"]).get_vocab_size()
    layers, width, heads = NAMES[name]
    dropout = 0.1 if name.endswith("base") else 0.0  # smaller ones on small data gain from capacity
    if _family(name) == "bert":
        from transformers import BertConfig, BertModel

        model: Any = BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                max_position_embeddings=length,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                pad_token_id=0,
            ),
            add_pooling_layer=False,
        )
    else:
        from transformers import GPT2Config, GPT2Model

        model = GPT2Model(
            GPT2Config(
                vocab_size=vocabulary,
                n_embd=width,
                n_layer=layers,
                n_head=heads,
                n_positions=length,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    kept = {key: config[key] for key in ("kind", "name", "length", "tokenizer") if key in config}
    return TextEncoder(
        Weights(vocabulary), Transformer(model.train(), _family(name) == "gpt"), {"kind": "text"} | kept
    )


def fitted(
    name: str, data: "Data", *, length: int = LENGTH, vocabulary: int | None = None, **unused: Any
) -> TextEncoder:
    """Build an encoder for texts: its tokenizer and the weights of the tokens are learned from them.

    Args:
        name: One of `NAMES`.
        data: The texts.
        length: Most tokens that are read at once.
        vocabulary: Most tokens of the vocabulary; None takes one for every 100 characters, 512 to 8,000.
    """
    check.choice(NAMES, encoder=name)
    texts = getattr(data, "texts", None)
    if not texts:
        raise UserError(f"data must be texts, got {data!r}")
    characters = sum(map(len, texts))
    if vocabulary is None:
        vocabulary = min(max(VOCABULARY[0], characters // CHARACTERS_OF_AN_ENTRY), VOCABULARY[1])
    check.at_least(VOCABULARY[0], vocabulary=vocabulary)
    tokenizer = learn_tokenizer(texts, _family(name), vocabulary)
    encoder = build({"kind": "text", "name": name, "length": length, "tokenizer": tokenizer.to_str()})
    tokens = encoder.encode([text[: 16 * length] for text in texts])
    encoder.adapt.fit(tokens)
    if encoder.family == "bert":
        unknown = sum(row.count(encoder.special("[UNK]")) for row in tokens) / max(sum(map(len, tokens)), 1)
        if unknown > MOST_UNKNOWN:
            _log.warning(
                f"{data.name}: {unknown:.0%} of the tokens are [UNK], words or letters that are not in the "
                f"vocabulary of {encoder.vocabulary}; gpt encoders read bytes and need no [UNK]"
            )
    return encoder


def learn_tokenizer(texts: Sequence[str], family: Family, vocabulary: int) -> Any:
    """Learn word pieces: of BERT (WordPiece, lower case) or of GPT-2 (pairs of bytes).

    Args:
        texts: What they are learned from, the first 20 million characters.
        family: bert or gpt.
        vocabulary: Most tokens.

    Returns:
        A `tokenizers.Tokenizer`.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    texts = _first(texts)
    if family == "bert":
        normalizer = normalizers.BertNormalizer(lowercase=True)
        alphabet = _alphabet(map(normalizer.normalize_str, texts), vocabulary // 4)
        # Without their numbers beforehand the pieces would be numbered in another order each time.
        inner = [f"##{letter}" for letter in alphabet]
        learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
        # As BERT does with Chinese characters; else a Thai sentence would be one word, and too long to be known.
        letters = pre_tokenizers.Split(Regex(SOUTH_EAST_ASIAN), "isolated")
        cutter: Any = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), letters])
        learner.normalizer, learner.pre_tokenizer = normalizer, cutter
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=vocabulary,
            special_tokens=[*_BERT_TOKENS, *inner],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))  # type: ignore[call-arg]
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cutter
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(_BERT_TOKENS)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    wanted = ["[CLS]", "[SEP]"] if family == "bert" else [END]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if family == "bert" else f"{END} $A",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if family == "bert" else f"{END} $A $B:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in wanted],
    )
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars of transformers, and without its note that the pooler, which nobody here reads, is missing."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _alphabet(texts: Iterable[str], most: int) -> list[str]:
    """The commonest characters."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    found = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(found, key=lambda letter: (-counts[letter], letter))[:most])


def _first(texts: Sequence[str]) -> list[str]:
    """Texts up to as many characters as are enough."""
    taken, left = [], MOST_CHARACTERS
    for text in texts:
        taken.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return taken


def _family(name: str) -> Family:
    return "gpt" if name.startswith("gpt") else "bert"
