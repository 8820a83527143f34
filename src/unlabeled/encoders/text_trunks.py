"""Networks of text encoders: the transformers of BERT, ModernBERT and GPT-2, and the token window of Bengio and others.

`bert-rotary-` networks are ModernBERT: Warner, Chaffin, Clavié, Weller, Hallström, Taghadouini and others, "Smarter,
Better, Faster, Longer: A Modern Bidirectional Encoder", 2024, https://arxiv.org/abs/2412.13663. Queries and keys are
rotated by their position, so that attention depends on distances only; two layers of three see 64 tokens to each side;
no layer has biases, and there are no segments: [SEP] alone separates two texts.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.hooks import outputs_of

__all__ = [
    "NAMES",
    "ROTARY",
    "TextInput",
    "TokenWindow",
    "Transformer",
    "make_narrow",
    "make_trunk",
    "mean_of_real",
]

TRANSFORMERS: dict[str, tuple[int, int, int]] = {
    "bert-tiny": (2, 128, 2),
    "bert-mini": (4, 256, 4),
    "bert-small": (4, 512, 8),
    "bert-medium": (8, 512, 8),
    "bert-base": (12, 768, 12),
    "bert-rotary-tiny": (2, 128, 2),
    "bert-rotary-mini": (4, 256, 4),
    "bert-rotary-small": (4, 512, 8),
    "bert-rotary-medium": (8, 512, 8),
    "bert-rotary-base": (22, 768, 12),
    "gpt-tiny": (2, 128, 2),
    "gpt-mini": (4, 256, 4),
    "gpt-small": (4, 512, 8),
    "gpt-medium": (8, 512, 8),
    "gpt-base": (12, 768, 12),
}
"""Layers, width and attention heads by name; `gpt-base` is the smallest GPT-2, `bert-rotary-base` ModernBERT-base."""
WINDOWS: dict[str, tuple[int, int, int]] = {
    "nplm-tiny": (4, 32, 64),
    "nplm-small": (4, 64, 128),
    "nplm-medium": (6, 128, 256),
}
"""Tokens of the window, width of their vectors and width of the hidden layer by name."""
NAMES = TRANSFORMERS | WINDOWS
ROTARY = "bert-rotary-"
END_NUMBER = 0
"""Number of the token that ends and begins a text, in all vocabularies of pairs of bytes."""


class TextInput(NamedTuple):
    """Input of the network.

    Attributes:
        tokens: Indices of tokens, int64, shape (batch, length).
        mask: Which tokens are real, bool, shape (batch, length).
        segment: 1 in the second of two texts, else 0, int64, shape (batch, length).
    """

    tokens: Tensor
    mask: Tensor
    segment: Tensor


class Transformer(nn.Module):
    """A model of transformers whose vector is the mean over the real tokens of the last layer.

    Args:
        model: `BertModel`, `ModernBertModel` or `GPT2Model`.
        causal: Whether a token sees only earlier ones; padding at the end then needs no mask.
    """

    overlap = 1

    def __init__(self, model: Any, causal: bool) -> None:
        super().__init__()
        self.model, self.causal = model, causal
        self.dim: int = model.config.hidden_size
        layers = model.config.num_hidden_layers
        self.map_dims = {name: self.dim for name in ["embedding", *(f"layer{n + 1}" for n in range(layers))]}

    @property
    def embeddings(self) -> nn.Embedding:
        """Vectors of the tokens."""
        return self.model.get_input_embeddings()

    def set_dropout(self, share: float) -> None:
        """Drop a share of the activations and of the attention in training, 0..1."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            if hasattr(module, "attention_dropout"):  # a number in ModernBERT
                cast(Any, module).attention_dropout = share

    def states(self, x: TextInput) -> list[Tensor]:
        """Embedding and every layer's output, float, shape (batch, length, dim) each."""
        return list(self._run(x, output_hidden_states=True).hidden_states)

    def last(self, x: TextInput) -> Tensor:
        """The last layer's output, float, shape (batch, length, dim)."""
        return self._run(x).last_hidden_state

    def feed_forward(self, x: TextInput) -> list[Tensor]:
        """What feed-forward layers give before it is added to their input, float, shape (batch, length, dim) each.

        Only of networks that read both sides.
        """
        rotary = not hasattr(self.model, "encoder")
        layers = self.model.layers if rotary else self.model.encoder.layer
        with outputs_of(layer.mlp if rotary else layer.output.dense for layer in layers) as outputs:
            self._run(x)
        return outputs

    def forward(self, x: TextInput) -> Tensor:
        """Features, float, shape (batch, dim)."""
        return mean_of_real(self.last(x), x.mask)

    def _run(self, x: TextInput, **options: Any) -> Any:
        if self.causal:
            return self.model(input_ids=x.tokens, use_cache=False, **options)
        if segments := getattr(self.model.config, "type_vocab_size", 0):  # RoBERTa has one
            options["token_type_ids"] = x.segment.clamp_max(segments - 1)
        return self.model(input_ids=x.tokens, attention_mask=x.mask.long(), **options)


class TokenWindow(nn.Module):
    """A hidden layer that sees the latest few tokens: tanh(d + H x), where x are their vectors side by side.

    Before the first token of a text it sees the end of another.

    Args:
        vocabulary: Number of tokens.
        window: Tokens that it sees.
        width: Width of a token's vector, which is the same at every place of the window.
        hidden: Width of the hidden layer.
    """

    causal = True

    def __init__(self, vocabulary: int, window: int, width: int, hidden: int) -> None:
        super().__init__()
        self.overlap, self.width, self.dim = window, window * width, hidden
        self.map_dims = {"embedding": width, "hidden": hidden}
        self.embeddings = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embeddings.weight, std=0.1)
        self.hidden = nn.Linear(self.width, hidden)

    def context(self, x: TextInput) -> Tensor:
        """Vectors of each token and of those before it, oldest first, float, shape (batch, length, window * width)."""
        vectors = self.embeddings(F.pad(x.tokens, (self.overlap - 1, 0), value=END_NUMBER))
        return vectors.unfold(1, self.overlap, 1).transpose(2, 3).flatten(2)

    def layer(self, context: Tensor) -> Tensor:
        """The hidden layer, float, shape (..., hidden), from what `context` gives."""
        return self.hidden(context).tanh()

    def states(self, x: TextInput) -> list[Tensor]:
        """Vectors of the tokens and the hidden layer, float, shape (batch, length, dim) each."""
        return [self.embeddings(x.tokens), self.last(x)]

    def last(self, x: TextInput) -> Tensor:
        """The hidden layer, float, shape (batch, length, dim)."""
        return self.layer(self.context(x))

    def forward(self, x: TextInput) -> Tensor:
        """Features, float, shape (batch, dim)."""
        return mean_of_real(self.last(x), x.mask)


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


def make_trunk(name: str, vocabulary: int, length: int) -> Transformer | TokenWindow:
    """Network with random weights.

    Args:
        name: One of `NAMES`.
        vocabulary: Number of tokens.
        length: Most tokens that are read at once.
    """
    if name in WINDOWS:
        return TokenWindow(vocabulary, *WINDOWS[name])
    model = _model(name, vocabulary, length, *TRANSFORMERS[name])
    return Transformer(model.train(), name.startswith("gpt"))


def make_narrow(name: str, length: int, share: float) -> Any:
    """A transformer of the same layers with a share of the heads and of the width, for vectors instead of tokens.

    Args:
        name: One of `NAMES` that is a transformer.
        length: Most tokens that are read at once.
        share: Fraction of the width, above 0; at least one head of two units is left.

    Returns:
        A model of transformers whose `forward` takes `inputs_embeds`, float, shape (batch, length, its hidden_size).
    """
    layers, width, heads = TRANSFORMERS[name]
    heads = max(1, round(share * heads))
    pairs = max(1, round(share * width / heads / 2))  # rotations are of pairs
    model = _model(name, 1, length, layers, 2 * pairs * heads, heads)
    model.set_input_embeddings(nn.Identity())
    return model.train()


def _model(name: str, vocabulary: int, length: int, layers: int, width: int, heads: int) -> Any:
    """The model of transformers, its weights drawn at random."""
    dropout = 0.1 if name.endswith("base") else 0.0  # smaller ones on small data gain from capacity
    if name.startswith(ROTARY):
        return _rotary_model(vocabulary, length, layers, width, heads)
    if name.startswith("bert"):
        from transformers import BertConfig, BertModel

        config: Any = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=length,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            pad_token_id=0,
        )
        return BertModel(config, add_pooling_layer=False)
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
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
    return GPT2Model(config)


def _rotary_model(vocabulary: int, length: int, layers: int, width: int, heads: int) -> Any:
    """ModernBERT, which has no dropout, with feed-forward layers of 1.5 times the width."""
    from transformers import ModernBertConfig, ModernBertModel

    config: Any = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
    )
    return ModernBertModel(config)
