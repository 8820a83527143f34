"""Encoders of sounds: networks and dictionaries on log-mel spectrograms, CPC's, PASE's and wav2vec 2.0's on waveforms.

`inputs` gives a pair: waveforms, float, shape (batch, samples), and their true lengths in samples, int64, shape
(batch,). Padding after the end of a sound changes none of its features.
"""

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import cpc, from_transformers, mel_transformer, pase, transformers_folder
from unlabeled.encoders.cpc import CPCNetwork
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.mel_code import MelCode, mel_code
from unlabeled.encoders.mel_transformer import MelTransformer
from unlabeled.encoders.pase import PASENetwork
from unlabeled.encoders.recurrent import by_length
from unlabeled.encoders.wav2vec2 import SIZES, Standardized, Wav2Vec2Network, make_model
from unlabeled.parts import ragged
from unlabeled.parts.spectrogram import LogMel

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "AudioEncoder", "Convolutional", "Recurrent", "Spectra", "build", "fitted"]

NAMES = ["gru2-256", "gru3", "audio-conv", "mel-dictionary-256"]
NAMES += [*mel_transformer.SIZES, *cpc.SIZES, *pase.SIZES, *SIZES]
"""The default first; gruN and gruN-W have any number of layers and width, mel-dictionary-ATOMS and
mel-dictionary-ATOMS-FRAMES any number of atoms and frames of a patch."""
STATISTICS_SECONDS = 10.0
"""Longest piece of a sound that the statistics of the input are computed from."""

Sound = tuple[Tensor, Tensor]


class Spectra(nn.Module):
    """Log-mel spectrograms whose bands each have mean 0 and deviation 1 over the data.

    Args:
        spectrogram: Computes log-mel spectrograms of waveforms.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spectrogram: LogMel) -> None:
        super().__init__()
        self.spectrogram = spectrogram
        self.register_buffer("mean", torch.full((spectrogram.bins,), 10.0))
        self.register_buffer("std", torch.full((spectrogram.bins,), 4.0))

    def forward(self, sound: Sound) -> Sound:
        """Normalised bands, float, shape (batch, frames, bins), 0 after the end; true frames of each sound."""
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
    """Layers of gated recurrent units that read forward in time only, each adding to the output of the one below.

    Args:
        bins: Numbers of an input frame.
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
        layers, x = {"mel": bands}, bands
        for number, unit in enumerate(self.units, 1):
            states = by_length(unit, x, frames)
            x = layers[f"gru{number}"] = states + x if states.shape == x.shape else states
        return layers, frames


class Convolutional(nn.Module):
    """Four convolutions over time with the bands as channels, the last three of stride 2.

    Args:
        bins: Numbers of an input frame.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        widths = [bins, 128, 128, 256, 256]
        self.strides = (1, 2, 2, 2)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 5, stride, padding=2)
            for stride, (before, after) in zip(self.strides, pairwise(widths))
        )
        # Norms of single frames: norms over time or over the batch would include the padding.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.map_dims = {f"conv{number}": width for number, width in enumerate(widths[1:], 1)}
        self.rates = dict(zip(self.map_dims, (1, 1 / 2, 1 / 4, 1 / 8)))
        self.dim = widths[-1]

    def layers(self, bands: Tensor, frames: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps by layer, float, shape (batch, frames, width), and true frames of each sound in each of them."""
        layers, counts = {}, {}
        for name, stride, convolution, norm in zip(
            self.map_dims, self.strides, self.convolutions, self.norms
        ):
            maps = rearrange(convolution(rearrange(bands, "b t c -> b c t")), "b c t -> b t c")
            frames = (frames - 1) // stride + 1
            bands = F.relu(norm(maps)) * ragged.real(frames, maps.shape[1])[:, :, None]
            layers[name], counts[name] = bands, frames
        return layers, counts


class AudioEncoder(Encoder):
    """A front end for waveforms followed by a network over time; its vectors are means over all real frames.

    Those of a dictionary are means over parts of a sound, and maxima.

    Args:
        adapt: Turns what `inputs` gives into what the network takes, with true lengths.
        trunk: Network with `dim`, `map_dims` and `layers` of what `adapt` gives.
        config: Arguments of `build` that give this architecture again.
    """

    kind = "audio"

    def __init__(self, adapt: "Spectra | Standardized", trunk: Any, config: dict[str, Any]) -> None:
        super().__init__(config, trunk.dim, trunk.map_dims)
        self.adapt, self.trunk = adapt, trunk
        self.spectrogram = LogMel(config["sample_rate"], config["bins"])
        self.raw_detail = f"mean and deviation over time of {config['bins']} log-mel bands"

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms that it takes, in hertz."""
        return self.config["sample_rate"]

    @property
    def causal(self) -> bool:
        """Whether its output at a frame of the spectrogram depends on that frame and earlier ones alone."""
        return getattr(self.trunk, "causal", False)

    @property
    def masks(self) -> bool:
        """Whether frames can be masked between its convolutions and its transformer."""
        return isinstance(self.trunk, Wav2Vec2Network)

    @property
    def is_cpc(self) -> bool:
        """Whether `trunk` is a `CPCNetwork`."""
        return isinstance(self.trunk, CPCNetwork)

    @property
    def is_pase(self) -> bool:
        """Whether `trunk` is a `PASENetwork`."""
        return isinstance(self.trunk, PASENetwork)

    @property
    def masks_mel(self) -> bool:
        """Whether tokens of a spectrogram can be masked before its transformer."""
        return isinstance(self.trunk, MelTransformer)

    @property
    def rates(self) -> dict[str, float]:
        """Frames of each layer per frame of the spectrogram."""
        if isinstance(self.trunk, Wav2Vec2Network):
            return dict.fromkeys(self.map_dims, self.spectrogram.hop / self.trunk.hop)
        return getattr(self.trunk, "rates", dict.fromkeys(self.map_dims, 1.0))

    @property
    def is_dictionary(self) -> bool:
        """Whether `trunk` is a `MelCode`."""
        return isinstance(self.trunk, MelCode)

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
        elif self.is_dictionary:
            return self.trunk.vectors(*self.adapt(x))
        name = layer or list(self.map_dims)[-1]
        layers, frames = self.layers(x)
        return ragged.mean(layers[name], frames[name] if isinstance(frames, dict) else frames)

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
        normalize = self.config.get("normalize", True)
        transformers_folder.write_audio_model(Path(folder), self.trunk.model, self.sample_rate, normalize)

    def read_transformers(self, folder: str | os.PathLike[str], x: Sound) -> Tensor:
        """Features as transformers computes them from such a folder, float, shape (batch, dim)."""
        waveforms = (waveform[:length] for waveform, length in zip(*self.trunk.padded(*x)))
        features = transformers_folder.read_audio_features(Path(folder), waveforms, self.sample_rate)
        return features.to(x[0].device)


def build(
    name: str,
    *,
    sample_rate: int = 16_000,
    bins: int | None = None,
    architecture: str | None = None,
    normalize: bool = True,
) -> AudioEncoder:
    """Build an encoder with random weights.

    Args:
        name: One of `NAMES`, gruN or gruN-W, mel-dictionary-ATOMS or mel-dictionary-ATOMS-FRAMES, or transformers.
        sample_rate: Samples per second of the waveforms, in hertz.
        bins: Bands of its spectrogram; None takes 80, below 16,000 Hz 40.
        architecture: Configuration of a network of transformers as JSON.
        normalize: Whether that network takes waveforms of mean 0 and variance 1.

    Raises:
        ValueError: There is no encoder of this name, or a number does not fit.
    """
    bins = bins or (80 if sample_rate >= 16_000 else 40)
    config = {"kind": "audio", "name": name, "sample_rate": sample_rate, "bins": bins}
    if name == from_transformers.NAME and architecture is not None:
        config |= {"architecture": architecture, "normalize": normalize}
        network = Wav2Vec2Network(from_transformers.make_model(architecture))
        return AudioEncoder(Standardized(normalize), network, config)
    spectra = Spectra(LogMel(sample_rate, bins))
    recurrent = re.fullmatch(r"gru([1-9]\d?)(?:-([1-9]\d{0,4}))?", name)
    if recurrent:
        trunk = Recurrent(bins, int(recurrent[1]), int(recurrent[2] or 512))
        return AudioEncoder(spectra, trunk, config)
    if (code := mel_code(name, bins)) is not None:
        return AudioEncoder(spectra, code, config)
    fixed = (known for known in NAMES if not known.startswith(("gru", "mel-dictionary")))
    check.choice([*fixed, "gruN", "gruN-W", "mel-dictionary-ATOMS"], encoder=name)
    if name == "audio-conv":
        return AudioEncoder(spectra, Convolutional(bins), config)
    if name in mel_transformer.SIZES:
        return AudioEncoder(spectra, MelTransformer(bins, mel_transformer.SIZES[name]), config)
    if name in cpc.SIZES:
        return AudioEncoder(Standardized(), CPCNetwork(cpc.SIZES[name], sample_rate), config)
    if name in pase.SIZES:
        return AudioEncoder(Standardized(), PASENetwork(pase.SIZES[name], sample_rate), config)
    return AudioEncoder(Standardized(), Wav2Vec2Network(make_model(name, sample_rate)), config)


def fitted(name: str, data: "Data", **described: Any) -> AudioEncoder:
    """Build an encoder for sounds: their sample rate, and the statistics of their spectrogram.

    Args:
        name: As in `build`.
        data: What it will be trained on.
        **described: Arguments of `build` that describe a network of transformers, its sample rate among them.
    """
    encoder = build(name, **{"sample_rate": data.shape["sample_rate"], **described})
    if isinstance(encoder.adapt, Spectra):
        pieces: Any = getattr(data, "crops", lambda seconds: data)(STATISTICS_SECONDS)
        encoder.adapt.fit(encoder.inputs(pieces.sample(512)))
    return encoder
