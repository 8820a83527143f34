"""Encoders of pictures with their sound: one network for each, and a space that both share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import image as images
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import ImageEncoder
from unlabeled.parts.precision import full
from unlabeled.parts.spectrogram import LogMel

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["NAMES", "AudioTower", "AudioVisualEncoder", "AudioVisualInput", "Spectrograms", "build", "fitted"]

NAMES = {"av-resnet10": "resnet10", "av-conv4": "conv4"}
"""Names, and the image network of each."""

SAMPLE = 512
"""Samples that set the statistics of an encoder's input."""

BINS, WINDOW_SECONDS, HOP_SECONDS = 64, 0.064, 0.016
WIDTHS = (16, 32, 64, 128)
FINEST = 4
"""Most pixels between the positions of the finest map: coarser ones cannot locate a small thing."""


class AudioVisualInput(NamedTuple):
    """Pictures and sounds as an encoder takes them.

    Attributes:
        image: Float, shape (batch, channels, image_size, image_size), in 0..1.
        waveform: Float, shape (batch, samples), in -1..1.
    """

    image: Tensor
    waveform: Tensor


class Spectrograms(nn.Module):
    """From waveforms to log-mel spectrograms, each band with mean 0 and deviation 1 over the data.

    Args:
        sample_rate: Samples per second of the waveforms, in hertz.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.mel = LogMel(sample_rate, BINS, window_seconds=WINDOW_SECONDS, hop_seconds=HOP_SECONDS)
        self.register_buffer("mean", torch.zeros(BINS))
        self.register_buffer("std", torch.ones(BINS))

    def forward(self, waveform: Tensor) -> Tensor:
        """Spectrograms, float, shape (batch, 1, bands, frames), of waveforms, shape (batch, samples)."""
        return ((self.mel(waveform) - self.mean[:, None]) / self.std[:, None])[:, None]

    @torch.no_grad()
    def fit(self, waveform: Tensor) -> None:
        """Set the statistics to those of waveforms, float, shape (batch, samples)."""
        bands = self.mel(waveform)
        std = bands.std((0, 2), correction=0)
        self.mean.copy_(bands.mean((0, 2)))
        self.std.copy_(torch.where(std < 1e-4, 1.0, std))


class AudioTower(nn.Module):
    """Four convolutions of stride 2 on a spectrogram, as on a picture.

    Args:
        adapt: Turns waveforms into what the network sees.
    """

    def __init__(self, adapt: Spectrograms) -> None:
        super().__init__()
        self.adapt = adapt
        layers: list[nn.Module] = []
        for before, after in pairwise((1, *WIDTHS)):
            layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers)
        self.dim = WIDTHS[-1]

    def forward(self, waveform: Tensor) -> Tensor:
        """Largest value of each channel, float, shape (batch, dim), of waveforms, shape (batch, samples)."""
        return self.trunk(self.adapt(waveform)).amax((2, 3))


class SharedSpace(nn.Module):
    """The space in which pictures and sounds are both directions.

    Args:
        map_dims: Channels of the maps of the picture, fine to coarse. Positions are those of the finest map alone,
            since coarser ones blur them; the whole picture is the sum of all.
        audio_dim: Width of the vector of the sound.
        dim: Width of the space.
    """

    def __init__(self, map_dims: Sequence[int], audio_dim: int, dim: int) -> None:
        super().__init__()
        first, last = nn.Conv2d(map_dims[0], dim, 1, bias=False), nn.Conv2d(dim, dim, 1)
        self.place = nn.Sequential(first, nn.BatchNorm2d(dim), nn.ReLU(inplace=True), last)
        self.widths = nn.ModuleList(nn.Conv2d(width, dim, 1, bias=False) for width in map_dims)
        self.norm = nn.BatchNorm2d(dim)
        # With their means, all directions start out alike and learning takes long to begin. Positions keep theirs:
        # most of them are background, of which only noise would remain.
        self.picture = _centred(dim, dim)
        self.sound = nn.Sequential(nn.Linear(audio_dim, dim), nn.ReLU(inplace=True), _centred(dim, dim))

    def pictures(self, maps: Sequence[Tensor]) -> Tensor:
        """Directions of whole pictures before they are normalised: the largest value anywhere of each channel."""
        total = self.widths[-1](maps[-1])
        for width, finer in reversed(list(zip(self.widths, maps[:-1]))):
            total = width(finer) + F.interpolate(total, size=finer.shape[2:])
        return self.picture(self.norm(total).relu().amax((2, 3)))


def _centred(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=False))


class Towers(nn.Module):
    """The two networks and the space that they share.

    Args:
        image: Network of the pictures.
        audio: Network of the sounds.
        meeting_dim: Width of the shared space.
    """

    def __init__(self, image: ImageEncoder, audio: AudioTower, meeting_dim: int) -> None:
        super().__init__()
        self.image, self.audio = image, audio
        training = image.training
        with torch.no_grad():
            maps = image.eval().maps(torch.zeros(1, image.in_channels, image.image_size, image.image_size))
        image.train(training)
        coarse = [name for name in maps if min(maps[name].shape[2:]) * FINEST <= image.image_size]
        self.names = coarse or list(maps)[-1:]
        self.meeting = SharedSpace([maps[name].shape[1] for name in self.names], audio.dim, meeting_dim)


class AudioVisualEncoder(Encoder):
    """A network for pictures and one for sounds; the vector is that of the picture, then that of the sound.

    Layers are `image` and `audio`, the two vectors. Besides, `picture`, `positions` and `sound` give directions in the
    shared space; a method that compares them trains it.

    Args:
        image: Network of the pictures.
        audio: Network of the sounds.
        config: Arguments of `build` that give this architecture again.
    """

    kind = "audio-visual"

    def __init__(self, image: ImageEncoder, audio: AudioTower, config: dict[str, Any]) -> None:
        super().__init__(config, image.dim + audio.dim, {"image": image.dim, "audio": audio.dim})
        self.trunk = Towers(image, audio, config["meeting_dim"])
        self.raw_detail = f"{image.raw_detail}, mean and deviation of {BINS} mel bands"

    @property
    def image(self) -> ImageEncoder:
        """Network of the pictures, itself an encoder of images."""
        return self.trunk.image

    @property
    def audio(self) -> AudioTower:
        """Network of the sounds."""
        return self.trunk.audio

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the pictures that `inputs` gives."""
        return self.config["image_size"]

    @property
    def seconds(self) -> float:
        """Length of the sounds."""
        return self.config["seconds"]

    def evaluation_view(self, data: "Data") -> "Data":
        """The middle frame of each clip and the sound around it.

        Raises:
            ValueError: The sounds have another sample rate.
        """
        rate, own = data.shape.get("sample_rate"), self.config["sample_rate"]
        if rate != own:
            raise UserError(
                f"sample_rate of {data.name} must be {own}, got {rate}. Open it with sample_rate={own}"
            )
        moments: Any = getattr(data, "moments", None)
        return data if moments is None else moments(self.seconds)

    def inputs(self, batch: dict[str, Tensor]) -> AudioVisualInput:
        """Pictures and sounds of a batch without random changes."""
        return AudioVisualInput(self.image.inputs(batch), batch["waveform"])

    def forward(self, x: AudioVisualInput) -> Tensor:
        """Vectors of the picture and the sound, concatenated, float, shape (batch, dim)."""
        return torch.cat([self.image(x.image), self.audio(x.waveform)], 1)

    def run_all(self, x: AudioVisualInput) -> None:
        """Run both networks and the shared space."""
        self.directions(x.image)
        self.sound(x.waveform)

    def features(self, x: AudioVisualInput, layer: str | None = None) -> Tensor:
        """Vectors of both, or of one: the layer `image` or `audio`."""
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return self.image(x.image) if layer == "image" else self.audio(x.waveform)

    def picture(self, image: Tensor) -> Tensor:
        """Whole pictures as directions in the shared space.

        Args:
            image: Float, shape (batch, channels, height, width), in 0..1.

        Returns:
            Float of norm 1, shape (batch, meeting_dim).
        """
        return self.directions(image)[0]

    def positions(self, image: Tensor) -> Tensor:
        """Every position of pictures as a direction in the shared space.

        Args:
            image: Float, shape (batch, channels, height, width), in 0..1.

        Returns:
            Float of norm 1, shape (batch, meeting_dim, rows, columns), a position for each 4 x 4 pixels or so.
        """
        return self.directions(image)[1]

    def directions(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `picture` and `positions` give, at the cost of one."""
        by_name, space = self.image.maps(image), self.trunk.meeting
        maps = [by_name[name] for name in self.trunk.names]
        picture, positions = space.pictures(maps), space.place(maps[0])
        return F.normalize(full(picture), dim=1), F.normalize(full(positions), dim=1)

    def sound(self, waveform: Tensor) -> Tensor:
        """Sounds as directions in the shared space.

        Args:
            waveform: Float, shape (batch, samples), in -1..1.

        Returns:
            Float of norm 1, shape (batch, meeting_dim).
        """
        return F.normalize(full(self.trunk.meeting.sound(self.audio(waveform))), dim=1)

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Pixels, then mean and deviation of each mel band over time, all in their own units."""
        bands = self.audio.adapt(batch["waveform"])[:, 0]
        return torch.cat([self.image.raw(batch), bands.mean(2), bands.std(2, correction=0)], 1)


def build(
    name: str,
    *,
    in_channels: int = 3,
    image_size: int = 64,
    sample_rate: int = 16_000,
    seconds: float = 1.0,
    meeting_dim: int = 128,
) -> AudioVisualEncoder:
    """Build an encoder with random weights.

    Args:
        name: One of `NAMES`.
        in_channels: Channels of the pictures.
        image_size: Height and width in pixels of the pictures.
        sample_rate: Samples per second of the sounds, in hertz.
        seconds: Length of the sounds.
        meeting_dim: Width of the shared space.

    Raises:
        ValueError: A name or a number does not fit.
    """
    check.choice(NAMES, encoder=name)
    check.positive(seconds=seconds)
    check.whole(meeting_dim=meeting_dim)
    check.at_least(1, meeting_dim=meeting_dim)
    image = images.build(NAMES[name], in_channels=in_channels, image_size=image_size)
    config = {"kind": "audio-visual", "name": name, "in_channels": in_channels, "image_size": image_size}
    config |= {"sample_rate": sample_rate, "seconds": seconds, "meeting_dim": meeting_dim}
    return AudioVisualEncoder(image, AudioTower(Spectrograms(sample_rate)), config)


def fitted(
    name: str, data: "Data", *, image_size: int | None = None, seconds: float = 1.0
) -> AudioVisualEncoder:
    """Build an encoder for data and set the statistics of its inputs.

    Args:
        name: One of `NAMES`.
        data: Pictures with sounds.
        image_size: Height and width in pixels of the pictures in training; None takes that of the data.
        seconds: Length of the sounds.
    """
    shape = data.shape
    encoder = build(
        name,
        in_channels=shape["channels"],
        image_size=image_size or shape["image_size"],
        sample_rate=shape["sample_rate"],
        seconds=seconds,
    )
    batch = encoder.evaluation_view(data).sample(SAMPLE)
    x = encoder.inputs({key: value.cpu() for key, value in batch.items()})
    encoder.image.adapt.fit(x.image)
    encoder.audio.adapt.fit(x.waveform)
    return encoder
