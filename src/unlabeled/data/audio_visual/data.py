"""Pictures with the sound around them, in one flat block of memory."""

import copy
from collections.abc import Iterable
from typing import NamedTuple, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.audio.data import FULL_SCALE, in_16_bits
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.samples import About, Batch, Data, Samples

__all__ = ["Clip", "Pairs", "from_pairs"]

SECONDS = 1.0
"""Length of the sound that goes with a frame by default."""
_ALIGNMENT = 8


class Clip(NamedTuple):
    """Frames and the sound around them on one clock, which starts at the first frame.

    Attributes:
        frames: uint8, shape (frames, channels, height, width).
        times: When each frame is shown, or for a still picture each moment of its sound, in seconds, float64.
        sound: int16, shape (samples,); the first sample is heard at time 0.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    sound: NDArray[np.int16]

    @property
    def lengths(self) -> list[int]:
        """Number of times, samples, frames, height and width."""
        return [len(self.times), len(self.sound), len(self.frames), *self.frames.shape[2:]]

    def packed(self) -> bytes:
        """Times, sound and frames one after the other, filled up to a multiple of 8 bytes."""
        parts = self.times.astype("<f8"), self.sound.astype("<i2"), self.frames
        content = b"".join(part.tobytes() for part in parts)
        return content + bytes(-len(content) % _ALIGNMENT)


class Pairs(Data):
    """Clips of pictures and sound; a sample is one frame of a clip with the sound around it.

    The sound is always centred on the time of the frame. So pairs that belong together and pairs made of two samples
    have the same moments in time: sounds that start elsewhere would bear other traces of their compression, by which
    the two can be distinguished without a look at the picture.

    Args:
        content: Clips as `Clip.packed` gives them, one after the other, uint8, shape (bytes,).
        clips: `Clip.lengths` of each clip, int64, shape (clips, 5).
        sample_rate: Samples of sound per second, in hertz.
        channels: Channels of every frame.
        masks: Where the things that are heard are in a clip of one frame, uint8, shape (clips, height, width): 1
            where the sound comes from, other numbers elsewhere. For evaluation only.
        **about: Name, paths, labels and so on, as in `Data`.
    """

    kind = "audio-visual"
    unit = "clips"
    group_unit = "recordings"
    per_sample = ("clips", "offsets", "masks")

    def __init__(
        self,
        content: Tensor,
        clips: Tensor,
        *,
        sample_rate: int,
        channels: int,
        masks: Tensor | None = None,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(**about)
        self.content, self.clips, self.masks = content, clips, masks
        self.sample_rate, self.channels = sample_rate, channels
        lengths = 8 * clips[:, 0] + 2 * clips[:, 1] + channels * clips[:, 2:].prod(1)
        lengths = (lengths + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
        self.offsets = lengths.cumsum(0) - lengths
        """Where each clip starts in `content`, int64, shape (clips,)."""
        assert len(clips) == len(self.paths) and int(lengths.sum()) == len(content)
        self.seconds, self.random = SECONDS, False

    @property
    def shape(self) -> dict[str, int]:
        """`channels`, `image_size` (the usual shorter side in pixels) and `sample_rate` in hertz."""
        size = int(self.clips[:, 3:].amin(1).median())
        return {"channels": self.channels, "image_size": size, "sample_rate": self.sample_rate}

    def moments(self, seconds: float = SECONDS, *, random: bool = False) -> Self:
        """The same clips, each giving one frame and the sound around it.

        Only frames that have the whole sound around them are given, or the middle one in clips that are too short;
        what lies outside of those is silence.

        Args:
            seconds: Length of the sound, above 0.
            random: Whether the frame is drawn anew in each batch, else it is the middle one.
        """
        check.positive(seconds=seconds)
        view = copy.copy(self)
        view.seconds, view.random = seconds, random
        return view

    def batch(self, index: Tensor) -> Batch:
        """Give out one frame of each clip with its sound.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `image` uint8 (batch, channels, height, width), `waveform` float32 (batch, samples) in -1..1, the
            time of the frame in its middle, and `index` int64 (batch,). Where frames differ in size they are
            padded with zeros at the bottom and right; `size` int64 (batch, 2) gives the true heights and widths.
        """
        index = index.cpu()
        samples = round(self.seconds * self.sample_rate)
        draws = torch.rand(len(index)) if self.random else torch.full((len(index),), 0.5)
        sizes = self.clips[index, 3:]
        height, width = sizes.amax(0).tolist()
        image = torch.zeros(len(index), self.channels, height, width, dtype=torch.uint8)
        waveform = torch.zeros(len(index), samples)
        for row, (clip, draw) in enumerate(zip(index.tolist(), draws.tolist())):
            times, sound, frames = self._parts(clip)
            moment, start = _moment(times, len(sound), samples, self.sample_rate, draw)
            frame = frames[min(moment, len(frames) - 1)]
            image[row, :, : frame.shape[1], : frame.shape[2]] = frame
            first, last = max(0, start), min(len(sound), start + samples)
            if first < last:
                waveform[row, first - start : last - start] = sound[first:last].float() / FULL_SCALE
        batch = {"image": image, "waveform": waveform, "index": index}
        if not bool((self.clips[:, 3:] == self.clips[:1, 3:]).all()):
            batch["size"] = sizes
        return self.on_device(batch)

    def _contents(self) -> Iterable[int]:
        parts = (self._parts(clip) for clip in range(len(self)))
        return (digest(sound, in_one_channel(frames)) for _, sound, frames in parts)

    def _parts(self, clip: int) -> tuple[Tensor, Tensor, Tensor]:
        """Times, sound and frames of a clip as views of the content."""
        times, samples, frames, height, width = self.clips[clip].tolist()
        start = int(self.offsets[clip])
        middle, end = start + 8 * times, start + 8 * times + 2 * samples
        shape = (frames, self.channels, height, width)
        return (
            self.content[start:middle].view(torch.float64),
            self.content[middle:end].view(torch.int16),
            self.content[end : end + frames * self.channels * height * width].view(shape),
        )


def _moment(times: Tensor, heard: int, samples: int, rate: int, draw: float) -> tuple[int, int]:
    """Number of a moment that has its sound around it, and where that sound starts, in samples."""
    starts = (times * rate).round().long() - samples // 2
    whole = ((starts >= 0) & (starts + samples <= heard)).nonzero()[:, 0]
    moment = int(whole[int(draw * len(whole))]) if len(whole) else len(times) // 2
    return moment, int(starts[moment])


def from_pairs(
    image: Tensor,
    waveform: Tensor,
    *,
    sample_rate: int,
    name: str = "pairs",
    masks: Tensor | None = None,
    **about: Unpack[About],
) -> Pairs:
    """Pairs of pictures and sounds in tensors.

    Args:
        image: uint8, shape (pairs, channels, height, width), of 1 or 3 channels.
        waveform: Float, shape (pairs, samples), in -1..1; the picture belongs to its middle.
        sample_rate: Samples of sound per second, in hertz.
        name: What the data is called in reports.
        masks: As in `Pairs`.
        **about: As in `Data`.

    Raises:
        ValueError: The type, the shape or the values are others.
    """
    image, waveform = torch.as_tensor(image).cpu(), torch.as_tensor(waveform).detach().cpu()
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] not in (1, 3) or 0 in image.shape:
        got = f"{image.dtype} of shape {tuple(image.shape)}"
        raise UserError(
            f"image must be uint8 with axes pairs, channels (1 or 3), height and width, got {got}"
        )
    if not waveform.is_floating_point() or waveform.ndim != 2 or waveform.shape[1] == 0:
        got = f"{waveform.dtype} of shape {tuple(waveform.shape)}"
        raise UserError(f"waveform must be float with axes pairs and samples, got {got}")
    if len(waveform) != len(image):
        raise UserError(f"waveform must have a sound for each of {len(image)} pictures, got {len(waveform)}")
    if not (peak := float(waveform.abs().max())) <= 1:
        raise UserError(f"waveform must be in -1..1, got values up to {peak:g}")
    check.whole(sample_rate=sample_rate)
    check.at_least(1, sample_rate=sample_rate)
    middle = np.array([waveform.shape[1] // 2 / sample_rate])
    pictures, sounds = image[:, None].numpy(), in_16_bits(waveform).numpy()
    clips = [Clip(frames, middle, sound) for frames, sound in zip(pictures, sounds)]
    return Pairs(
        torch.frombuffer(bytearray().join(clip.packed() for clip in clips), dtype=torch.uint8),
        torch.tensor([clip.lengths for clip in clips]),
        sample_rate=sample_rate,
        channels=image.shape[1],
        name=name,
        paths=[f"{name}[{row}]" for row in range(len(clips))],
        masks=masks,
        **about,
    )
