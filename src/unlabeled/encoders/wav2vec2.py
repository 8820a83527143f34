"""The network of wav2vec 2.0, as transformers has it: convolutions over the waveform, then a transformer."""

from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.strided import Strided
from unlabeled.parts import ragged
from unlabeled.parts.hooks import outputs_of
from unlabeled.parts.precision import full

__all__ = ["SIZES", "Standardized", "Wav2Vec2Network", "make_model"]

MODELS = ("wav2vec2", "hubert")
"""Networks of transformers that are built of these parts."""
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
LOW_RATE = 8_000
DROPOUT: dict[str, Any] = {"activation_dropout": 0.0, "layerdrop": 0.05}
NO_DROPOUT: dict[str, Any] = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0
)


class Size(NamedTuple):
    """Numbers that distinguish the sizes of the network."""

    channels: int
    width: int
    layers: int
    heads: int
    position: int
    """Frames that the convolution for positions spans."""
    groups: int
    norm: str
    """Where the convolutions have norms: of each frame in all layers, or over time in the first alone."""
    options: dict[str, Any]


SIZES = {
    "wav2vec2-mini": Size(128, 192, 4, 4, 64, 16, "layer", DROPOUT),
    "wav2vec2-tiny": Size(32, 48, 2, 4, 16, 4, "layer", NO_DROPOUT),
    "wav2vec2-base": Size(512, 768, 12, 12, 128, 16, "group", DROPOUT),
}
"""By name. Norms over time would make features depend on the padding of a sound, so small ones have none."""


class Standardized(nn.Module):
    """Waveforms of mean 0 and variance 1 each, silence staying silence.

    Args:
        active: Whether they are brought there, or left as they are.
    """

    def __init__(self, active: bool = True) -> None:
        super().__init__()
        self.active = active

    def forward(self, sound: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Waveforms, float, shape (batch, samples), 0 after the end, and their true lengths in samples."""
        waveform, length = full(sound[0]), sound[1]
        if not self.active:
            return waveform * ragged.real(length, waveform.shape[1]), length
        count = length.clamp(min=1)
        centred = waveform - ragged.mean(waveform, count)[:, None]
        spread = (ragged.mean(centred.square(), count) + 1e-7).sqrt()
        return centred / spread[:, None] * ragged.real(length, waveform.shape[1]), length


def make_model(name: str, sample_rate: int) -> Any:
    """A `Wav2Vec2Model` of transformers with random weights.

    From 8,000 Hz down the small sizes have one convolution of stride 2 less, so that a frame stays 20 ms.

    Args:
        name: One of `SIZES`.
        sample_rate: Samples per second of the waveforms, in hertz.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    size = SIZES[name]
    count = len(STRIDES) - (sample_rate <= LOW_RATE and name != "wav2vec2-base")
    options: dict[str, Any] = {"attn_implementation": "sdpa", **size.options}
    config = Wav2Vec2Config(
        conv_dim=(size.channels,) * count,
        conv_kernel=KERNELS[:count],
        conv_stride=STRIDES[:count],
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        num_conv_pos_embeddings=size.position,
        num_conv_pos_embedding_groups=size.groups,
        feat_extract_norm=size.norm,
        **options,
    )
    return Wav2Vec2Model(config)


class Wav2Vec2Network(Strided):
    """Convolutions over a waveform, and a transformer over their frames, which can be masked in between.

    Args:
        model: A `Wav2Vec2Model` or `HubertModel` of transformers.

    Raises:
        ValueError: It is another network.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.model_type not in MODELS or getattr(config, "conv_pos_batch_norm", False):
            raise UserError(f"weights must be of {' or '.join(MODELS)} for sounds, got a {config.model_type}")
        super().__init__(config.conv_kernel, config.conv_stride)
        self.model, self.dim = model, config.hidden_size
        layers = range(1, config.num_hidden_layers + 1)
        self.map_dims = {"conv": config.conv_dim[-1]} | {f"layer{n}": self.dim for n in layers}

    @property
    def channels(self) -> int:
        """Numbers of a frame after the convolutions."""
        return self.map_dims["conv"]

    @property
    def norm_over_time(self) -> bool:
        """Whether there are norms over time, which include the padding of a sound."""
        return self.model.config.feat_extract_norm == "group"

    def convolve(self, waveform: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Frames before they are normalised, float, shape (batch, frames, channels), and true frames of each sound."""
        waveform, length = self.padded(waveform, length)
        frames = self.frames(length)
        # A graph has no branches on values: there, sounds are taken to be of one length.
        one_length = torch.compiler.is_exporting() or bool((length == waveform.shape[1]).all())
        if not self.norm_over_time or one_length:
            (maps,) = ragged.in_parts(self._convolve, waveform, length, self.frames(waveform.shape[1]))
            return maps, frames
        # A norm over time includes the padding, so sounds of one length go through together.
        padded_maps = waveform.new_zeros(len(waveform), int(frames.max()), self.channels)
        for samples in length.unique().tolist():
            rows = (length == samples).nonzero().flatten()
            maps = rearrange(self.model.feature_extractor(waveform[rows, :samples]), "b c t -> b t c")
            padded_maps = padded_maps.index_put(
                (rows[:, None], torch.arange(maps.shape[1], device=rows.device)), maps
            )
        return padded_maps, frames

    def _convolve(self, waveform: Tensor, length: Tensor) -> list[Tensor]:
        return [rearrange(self.model.feature_extractor(waveform), "b c t -> b t c")]

    def project(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the transformer, float, shape (batch, frames, width), and the normalised frames."""
        projected = self.model.feature_projection(maps)
        if isinstance(projected, tuple):
            return projected
        norm = getattr(
            self.model.feature_projection, "layer_norm", nn.Identity()
        )  # HuBERT does not give it out
        return projected, norm(maps)

    def context(self, hidden: Tensor, frames: Tensor, masked: Tensor | None = None) -> list[Tensor]:
        """Outputs of all layers of the transformer, float, shape (batch, frames, width).

        Args:
            hidden: Output of `project`, float, shape (batch, frames, width).
            frames: True frames of each sound, int64, shape (batch,).
            masked: Frames that are replaced by one learned vector, bool, shape (batch, frames).
        """
        if masked is not None:
            hidden = torch.where(masked[:, :, None], self.model.masked_spec_embed.to(hidden.dtype), hidden)
        return ragged.in_parts(self._context, hidden, frames, hidden.shape[1])

    def _context(self, hidden: Tensor, frames: Tensor) -> list[Tensor]:
        hidden, attention = self._positioned(hidden, frames)
        outputs = []
        for layer in self.model.encoder.layers:
            if self.training and bool(torch.rand(()) < self.model.config.layerdrop):
                # Processes that train together wait for the gradients of all weights.
                hidden = hidden + 0 * sum(weights.sum() for weights in layer.parameters())
            else:
                hidden = layer(hidden, attention_mask=attention)
            outputs.append(hidden)
        if self.model.config.do_stable_layer_norm:
            outputs[-1] = self.model.encoder.layer_norm(outputs[-1])
        return outputs

    def _positioned(self, hidden: Tensor, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Input of the first layer, and where it may look, None if everywhere."""
        real = ragged.real(frames, hidden.shape[1])
        encoder = self.model.encoder
        hidden = hidden * real[:, :, None]
        hidden = hidden + encoder.pos_conv_embed(hidden)
        if not self.model.config.do_stable_layer_norm:  # else the norm comes last
            hidden = encoder.layer_norm(hidden)
        hidden = encoder.dropout(hidden)
        whole = not torch.compiler.is_exporting() and bool(real.all())
        return hidden, None if whole else rearrange(real, "b t -> b 1 1 t")

    def feed_forward(self, hidden: Tensor, frames: Tensor, layers: nn.Module) -> list[Tensor]:
        """What feed-forward layers give before it is added to their input, float, shape (batch, frames, width) each.

        Args:
            hidden: Output of `project`, float, shape (batch, frames, width).
            frames: True frames of each sound, int64, shape (batch,).
            layers: A copy of the transformer's layers, which takes their place; none is left out.
        """
        return ragged.in_parts(partial(self._feed_forward, layers), hidden, frames, hidden.shape[1])

    def _feed_forward(self, layers: Any, hidden: Tensor, frames: Tensor) -> list[Tensor]:
        hidden, attention = self._positioned(hidden, frames)
        with outputs_of(layer.feed_forward for layer in layers) as outputs:
            for layer in layers:
                hidden = layer(hidden, attention_mask=attention)
        return outputs

    def layers(self, waveform: Tensor, length: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Every layer at every frame, float, shape (batch, frames, width), and true frames of each sound."""
        maps, frames = self.convolve(waveform, length)
        hidden, normed = self.project(maps)
        return dict(zip(self.map_dims, [normed, *self.context(hidden, frames)], strict=True)), frames
