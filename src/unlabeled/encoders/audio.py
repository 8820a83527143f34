"""Encoders of sounds: recurrent and convolutional ones on log-mel spectrograms, and wav2vec 2.0's on the waveform.

What `inputs` gives is the pair of waveforms, float, shape (batch, samples), and their true lengths in samples, int64,
shape (batch,). What lies behind the end of a sound changes none of its features.
"""

import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.wav2vec2 import SIZES, Standardized, Wav2Vec2Network
from unlabeled.parts import ragged
from unlabeled.parts.spectrogram import LogMel

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "AudioEncoder", "Convolutional", "Recurrent", "Spectra", "build", "fitted"]

LEAVE = 8
"""Times that sequences leave a batch whose end has come; more save work on what is padded and cost calls."""
NAMES = ["gru2-256", "gru3", "audio-conv", *SIZES]
"""First what is taken where nobody chooses; gruN and gruN-W have any number of layers and width."""
STATISTICS_SECONDS = 10.0
"""Of longer sounds a piece of this length is looked at for the statistics of the input."""

Sound = tuple[Tensor, Tensor]


class Spectra(nn.Module):
    """Log-mel spectrograms of which each band has mean 0 and deviation 1 over the data.

    Args:
        spectrogram: Makes log-mel spectrograms of waveforms.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spectrogram: LogMel) -> None:
        super().__init__()
        self.spectrogram = spectrogram
        self.register_buffer("mean", torch.full((spectrogram.bins,), 10.0))
        self.register_buffer("std", torch.full((spectrogram.bins,), 4.0))

    def forward(self, sound: Sound) -> Sound:
        """Normalised bands, float, shape (batch, frames, bins), 0 behind the end; true frames of each sound."""
        waveform, length = sound
        bands = rearrange(self.spectrogram(waveform), "batch bins frames -> batch frames bins")
        frames = self.spectrogram.frames(length)
        bands = (bands - self.mean) / self.std
        return bands * ragged.real(frames, bands.shape[1])[:, :, None], frames

    @torch.no_grad()
    def fit(self, sound: Sound) -> None:
        """Set the statistics to those of all frames of sounds; a band that does not vary is divided by 1."""
        waveform, length = sound
        bands = rearrange(self.spectrogram(waveform), "batch bins frames -> batch frames bins")
        bands = bands[ragged.real(self.spectrogram.frames(length), bands.shape[1])].double()
        spread = bands.std(0, correction=0)
        self.mean.copy_(bands.mean(0))
        self.std.copy_(torch.where(spread < 1e-4, 1.0, spread))


class Recurrent(nn.Module):
    """Layers of gated recurrent units that hear forward in time only, each adding to what the one below it says.

    Args:
        bins: Numbers of a frame that comes in.
        layers: Number of layers.
        width: Units of each layer.
    """

    causal = True

    def __init__(self, bins: int, layers: int, width: int) -> None:
        super().__init__()
        widths = [bins, *[width] * layers]
        self.units = nn.ModuleList(nn.GRU(a, b, batch_first=True) for a, b in pairwise(widths))
        self.map_dims = {"mel": bins, **{f"gru{number}": width for number in range(1, layers + 1)}}
        self.dim = width

    def layers(self, bands: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """States by layer after each frame, float, shape (batch, frames, width), and true frames of each sound."""
        found, heard = {"mel": bands}, bands
        for number, unit in enumerate(self.units, 1):
            states = _by_length(unit, heard, frames)
            heard = states + heard if states.shape == heard.shape else states
            found[f"gru{number}"] = heard
        return found, frames


def _by_length(unit: nn.Module, values: Tensor, frames: Tensor) -> Tensor:
    """States of a recurrent unit, 0 behind the end of each sequence, an eighth of which leave the batch at a time.

    The gradient of packed sequences would take time in the square of their length on a CPU.

    Args:
        unit: A GRU, batch first.
        values: Float, shape (batch, frames, numbers), 0 behind the end of each sequence.
        frames: True frames of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, frames, width).
    """
    lengths, order = frames.cpu().sort(descending=True)
    ends = lengths[:: -(-len(lengths) // LEAVE)].unique().tolist()
    values, state, parts = values[order.to(values.device)], None, []
    for begin, end in pairwise([0, *ends]):
        active = int((lengths > begin).sum())
        left = None if state is None else state[:, :active].contiguous()
        states, state = unit(values[:active, begin:end], left)
        kept = ragged.real((lengths[:active] - begin).to(states.device), end - begin)
        states = states.masked_fill(~kept[:, :, None], 0)
        parts.append(F.pad(states, (0, 0, 0, 0, 0, len(values) - active)))
    joined = F.pad(torch.cat(parts, 1), (0, 0, 0, values.shape[1] - ends[-1]))
    return joined[order.argsort().to(values.device)]


class Convolutional(nn.Module):
    """Four convolutions over time that see the bands of pitch as channels, the last three of stride 2.

    Args:
        bins: Numbers of a frame that comes in.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        widths = [bins, 128, 128, 256, 256]
        self.strides = (1, 2, 2, 2)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 5, stride, padding=2)
            for stride, (before, after) in zip(self.strides, pairwise(widths))
        )
        # Norms of each frame for itself: those over time or over the batch would hear the padding.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.map_dims = {f"conv{number}": width for number, width in enumerate(widths[1:], 1)}
        self.dim = widths[-1]

    def layers(self, bands: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps by layer, float, shape (batch, frames, width), and true frames of each sound in each of them."""
        found, counts = {}, {}
        for name, stride, convolution, norm in zip(
            self.map_dims, self.strides, self.convolutions, self.norms
        ):
            maps = rearrange(convolution(rearrange(bands, "b t c -> b c t")), "b c t -> b t c")
            frames = (frames - 1) // stride + 1
            bands = F.relu(norm(maps)) * ragged.real(frames, maps.shape[1])[:, :, None]
            found[name], counts[name] = bands, frames
        return found, counts


class AudioEncoder(Encoder):
    """A front end for waveforms followed by a network over time; its vectors are means over all real frames."""

    kind = "audio"

    def __init__(self, adapt: nn.Module, trunk: nn.Module, config: dict[str, Any]) -> None:
        super().__init__(adapt, trunk, config)
        self.spectrogram = LogMel(config["sample_rate"], config["bins"])
        self.raw_detail = f"mean and deviation over time of {config['bins']} log-mel bands"

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that it takes, in hertz."""
        return self.config["sample_rate"]

    @property
    def causal(self) -> bool:
        """Whether what it says of a frame depends on that frame and those before alone."""
        return getattr(self.trunk, "causal", False)

    @property
    def masks(self) -> bool:
        """Whether frames can be hidden between its convolutions and its transformer."""
        return isinstance(self.trunk, Wav2Vec2Network)

    def evaluation_view(self, data: "Data") -> "Data":
        """The same sounds, at the sample rate of this encoder."""
        resampled = getattr(data, "resampled", None)
        return data if resampled is None else resampled(self.sample_rate)

    def inputs(self, batch: dict[str, Tensor]) -> Sound:
        """Waveforms and true lengths of a batch.

        Args:
            batch: `waveform` float, shape (batch, samples), in -1..1, and perhaps `length` int64, shape (batch,).
        """
        waveform = batch["waveform"]
        whole = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
        return waveform, batch.get("length", whole)

    def layers(self, x: Sound) -> tuple[dict[str, Tensor], Any]:
        """Every layer at every frame, float, shape (batch, frames, width), and how many frames are real.

        Args:
            x: What `inputs` gives.

        Returns:
            Layers by name, and true frames of each sound, int64, shape (batch,), in all layers or by their names.
        """
        return self.trunk.layers(*self.adapt(x))

    def forward(self, x: Sound) -> Tensor:
        return self.features(x)

    def features(self, x: Sound, layer: str | None = None) -> Tensor:
        if layer is not None:
            check.choice(self.map_dims, layer=layer)
        name = layer or list(self.map_dims)[-1]
        found, frames = self.layers(x)
        return ragged.mean(found[name], frames[name] if isinstance(frames, dict) else frames)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        waveform, length = self.inputs(batch)
        bands = rearrange(self.spectrogram(waveform), "batch bins frames -> batch frames bins")
        frames = self.spectrogram.frames(length)
        mean = ragged.mean(bands, frames)
        spread = ragged.mean((bands - mean[:, None]).square(), frames).sqrt()
        return torch.cat([mean, spread], dim=1)

    def write_transformers(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder from which transformers' AutoModel and AutoFeatureExtractor load this encoder.

        Raises:
            ValueError: transformers has no such architecture.
        """
        if not isinstance(self.trunk, Wav2Vec2Network):
            raise UserError(f"encoder must be a wav2vec2 for transformers, got {self.config['name']}")
        self.trunk.write(folder, self.sample_rate)

    def read_transformers(self, folder: str | os.PathLike[str], x: Sound) -> Tensor:
        """Features as transformers computes them from such a folder, float, shape (batch, dim)."""
        from transformers import AutoFeatureExtractor, AutoModel

        model, extractor = (
            AutoModel.from_pretrained(folder).eval(),
            AutoFeatureExtractor.from_pretrained(folder),
        )
        found = []
        for waveform, length in zip(*self.trunk.padded(*x)):
            given = extractor(
                waveform[:length].cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt"
            )
            found.append(model(given["input_values"]).last_hidden_state.mean(1))
        return torch.cat(found).to(x[0].device)


def build(config: dict[str, Any]) -> AudioEncoder:
    """Build an encoder with random weights.

    Args:
        config: `name`, and perhaps `sample_rate` in hertz (16,000) and `bins`, the bands of its spectrogram.

    Raises:
        ValueError: There is no encoder of this name, or a number does not fit.
    """
    name, rate = config["name"], config.get("sample_rate", 16_000)
    unknown = config.keys() - {"kind", "name", "sample_rate", "bins"}
    if unknown:
        raise UserError(f"an encoder of sounds takes sample_rate and bins, got {', '.join(sorted(unknown))}")
    bins = config.get("bins") or (80 if rate >= 16_000 else 40)
    whole = {"kind": "audio", "name": name, "sample_rate": rate, "bins": bins}
    spectrogram = LogMel(rate, bins)
    recurrent = re.fullmatch(r"gru([1-9]\d?)(?:-([1-9]\d{0,4}))?", name)
    if recurrent:
        trunk = Recurrent(bins, int(recurrent[1]), int(recurrent[2] or 512))
        return AudioEncoder(Spectra(spectrogram), trunk, whole)
    check.choice(
        [choice for choice in NAMES if not choice.startswith("gru")] + ["gruN", "gruN-W"], encoder=name
    )
    if name == "audio-conv":
        return AudioEncoder(Spectra(spectrogram), Convolutional(bins), whole)
    return AudioEncoder(Standardized(), Wav2Vec2Network(name, rate), whole)


def fitted(name: str, data: "Data", *, image_size: int | None = None) -> AudioEncoder:
    """Build an encoder for sounds: their sample rate, and the statistics of their spectrogram.

    Args:
        name: One of `NAMES`.
        data: What it will be trained on.
        image_size: Not used: sounds have none.
    """
    encoder = build({"name": name, "sample_rate": data.shape["sample_rate"]})
    if isinstance(encoder.adapt, Spectra):
        pieces: Any = getattr(data, "crops", lambda seconds: data)(STATISTICS_SECONDS)
        encoder.adapt.fit(encoder.inputs(pieces.sample(512)))
    return encoder
