"""Pictures with the sound that was heard when they were seen, decoded once.

Read are videos with their sound track, and videos or pictures beside a sound of the same name (`dog.mp4` or
`dog.jpg` with `dog.wav`). Sound and frames lie on the clock of the file, by their time stamps: what an encoder
of sound puts before the first sample is cut off, and gaps are filled with silence.
"""

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self, Unpack

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.cache import folder_of, kept
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image import decode
from unlabeled.data.labels import numbered
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.pool import in_order
from unlabeled.data.samples import About, Batch, Data, Skipped
from unlabeled.data.sources import Source, find_files
from unlabeled.data.video import decode as decode_video
from unlabeled.worlds import chiming_shapes

__all__ = ["Clip", "Pairs", "built_in", "find", "from_pairs", "read_clip", "read_sound"]

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus", ".m4a")
SECONDS = 1.0
"""Sound that goes with a frame, where nobody says more."""

_STORE_SIZE = 112
_HIGHEST_RATE = 16_000
_MOST_FPS = 12.5
_STILL_FPS = 25.0
_SILENCE = 1e-3
_JITTER_SECONDS = 0.005
_GAPS, _GAP_SECONDS = 10, 600
"""How often a sound may be as long as what is heard in it, and the seconds of gaps that any may have."""
_UNPACKED, _RATIO = 2**25, 64
"""Samples that any file may unpack to, and how many for each byte of a larger one."""
_ALIGNMENT = 8
_FULL_SCALE = 2**15
_PAIRS = {"train": 3000, "test": 800}


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


class Pairs(Data):
    """Clips of pictures and sound; a sample is one frame of a clip with the sound around it.

    The sound is centred on the time of the frame, always. So pairs that belong together and pairs made of two
    samples have the same moments in time: sounds that start anywhere else would bear other traces of their
    compression, which tell the two apart without a look at the picture.

    Args:
        content: Each clip's times (float64), sound (int16) and frames (uint8) one after the other, filled up to
            a multiple of 8 bytes, uint8, shape (bytes,).
        clips: Number of times, samples, frames, height and width of each clip, int64, shape (clips, 5).
        sample_rate: Samples of sound per second, in hertz.
        channels: Channels of every frame.
        masks: Where the things that are heard are in a clip of one frame, uint8, shape (clips, height, width): 1
            where the sound comes from, other numbers elsewhere. For evaluation only.
        name: What the data is called in reports.
        paths: Where each clip came from.
        **about: As in `Data`.
    """

    kind: ClassVar[str] = "audio-visual"
    unit: ClassVar[str] = "clips"
    group_unit = "recordings"

    def __init__(
        self,
        content: Tensor,
        clips: Tensor,
        *,
        sample_rate: int,
        channels: int,
        name: str,
        paths: Sequence[str],
        masks: Tensor | None = None,
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        self.content, self.clips, self.masks = content, clips, masks
        self.sample_rate, self.channels = sample_rate, channels
        lengths = _bytes(clips, channels)
        self.offsets = lengths.cumsum(0) - lengths
        assert len(clips) == len(self.paths) and int(lengths.sum()) == len(content)
        self.seconds, self.random = SECONDS, False

    @property
    def shape(self) -> dict[str, int]:
        """`channels`, `image_size` (the usual shorter side in pixels) and `sample_rate` in hertz."""
        size = int(self.clips[:, 3:].amin(1).median())
        return {"channels": self.channels, "image_size": size, "sample_rate": self.sample_rate}

    def moments(self, seconds: float = SECONDS, *, random: bool = False) -> Self:
        """The same clips, each giving one frame and the sound around it.

        Only frames that have the whole sound around them are given, or the middle one in clips that are too
        short; what lies outside of those is silence.

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
                waveform[row, first - start : last - start] = sound[first:last].float() / _FULL_SCALE
        batch = {"image": image, "waveform": waveform, "index": index}
        if not bool((self.clips[:, 3:] == self.clips[:1, 3:]).all()):
            batch["size"] = sizes
        return self.on_device(batch)

    def digests(self) -> Tensor:
        """As in `Data`; of all frames and the whole sound, whichever moment is shown."""
        parts = (self._parts(clip) for clip in range(len(self)))
        return torch.tensor(
            [digest(sound, in_one_channel(frames)) for _, sound, frames in parts], dtype=torch.int64
        )

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

    def _keep(self, rows: Tensor) -> None:
        self.clips, self.offsets = self.clips[rows], self.offsets[rows]
        self.masks = None if self.masks is None else self.masks[rows]


def _moment(times: Tensor, heard: int, samples: int, rate: int, draw: float) -> tuple[int, int]:
    """Number of a moment that has its sound around it, and where that sound starts, in samples."""
    starts = (times * rate).round().long() - samples // 2
    whole = ((starts >= 0) & (starts + samples <= heard)).nonzero()[:, 0]
    chosen = int(whole[int(draw * len(whole))]) if len(whole) else len(times) // 2
    return chosen, int(starts[chosen])


def _bytes(clips: Tensor, channels: int) -> Tensor:
    """Bytes of each clip, int64, shape (clips,)."""
    length = 8 * clips[:, 0] + 2 * clips[:, 1] + channels * clips[:, 2:].prod(1)
    return (length + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


def from_pairs(
    image: Tensor,
    waveform: Tensor,
    *,
    sample_rate: int,
    name: str = "pairs",
    masks: Tensor | None = None,
    **about: Unpack[About],
) -> Pairs:
    """Pairs of pictures and sounds that are all there.

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
    if not waveform.abs().max() <= 1:
        raise UserError(f"waveform must be in -1..1, got values up to {float(waveform.abs().max()):g}")
    check.whole(sample_rate=sample_rate)
    check.at_least(1, sample_rate=sample_rate)
    pairs, channels, height, width = image.shape
    middle = torch.full((pairs, 1), waveform.shape[1] // 2 / sample_rate, dtype=torch.float64)
    sound = (waveform * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1).to(torch.int16)
    pixels = rearrange(image, "pairs channels height width -> pairs (channels height width)")
    parts = [middle.view(torch.uint8), sound.view(torch.uint8), pixels]
    over = -sum(part.shape[1] for part in parts) % _ALIGNMENT
    content = torch.cat([*parts, torch.zeros(pairs, over, dtype=torch.uint8)], 1).flatten()
    clips = torch.tensor([1, sound.shape[1], 1, height, width]).repeat(pairs, 1)
    return Pairs(
        content,
        clips,
        sample_rate=sample_rate,
        channels=channels,
        name=name,
        paths=[f"{name}[{row}]" for row in range(pairs)],
        masks=masks,
        **about,
    )


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Pairs:
    """Open a set that is made, not read.

    Args:
        name: `chiming_shapes`, or `chiming_shapes:distractor` with a second shape that makes no sound.
        split: train or test.

    Raises:
        ValueError: There is no such set.
    """
    variant = name.partition(":")[2]
    check.choice(("chiming_shapes", "chiming_shapes:distractor"), name=name)
    check.choice(_PAIRS, split=split)
    made = chiming_shapes.make(
        _PAIRS[split], int(split == "test"), distractor=variant == "distractor", image_size=64
    )
    image, waveform, masks, labels = (made.pop(key) for key in ("image", "waveform", "masks", "labels"))
    return from_pairs(
        image,
        waveform,
        sample_rate=chiming_shapes.SAMPLE_RATE,
        name=name,
        masks=masks,
        labels=labels,
        classes=list(chiming_shapes.CLASSES),
        factors=made,
    )


def find(source: Any, how: OpenOptions) -> Mapping[str, Callable[[], Data]]:
    """What opens each split of a folder of videos with sound, or of pictures beside sounds; "all" without splits.

    Args:
        source: A folder, perhaps with class folders, and these perhaps in split folders, or one file.
        how: Options of `open_data`.

    Raises:
        ValueError: Nothing of that kind is there.
    """
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"data must be a folder, a file or Data, such as from_pairs gives, got {type(source).__name__}"
        )
    path, name = Path(source).expanduser(), os.fspath(source)
    try:
        found = find_files(path, name, decode_video.SUFFIXES, "videos", how.label)
    except ValueError:
        pictures = tuple(suffix for suffix in decode.SUFFIXES if suffix != ".gif")
        found = find_files(path, name, pictures, "videos, or pictures beside sounds,")
    rate = how.sample_rate or _usual_rate(list(found.values()))
    return {split: partial(_opened, part, how, rate) for split, part in found.items()}


def _opened(source: Source, how: OpenOptions, rate: int) -> Pairs:
    """One split, from the cache where that fits."""
    reading = source.read()
    items = list(reading.items)
    sounds = {str(item.path): _beside(Path(item.content)) for item in items if isinstance(item.content, Path)}
    stamps = [
        [name, str(sound), sound.stat().st_size, sound.stat().st_mtime_ns]
        for name, sound in sounds.items()
        if sound
    ]
    size, channels = how.store_size or _STORE_SIZE, how.channels or 3

    def write(stream: BinaryIO) -> dict[str, Any]:
        about: dict[str, Any] = {"clips": [], "paths": [], "labels": [], "skipped": [], "unheard": []}

        def read(number: int) -> Clip | Exception:
            item = items[number]
            try:
                assert isinstance(item.content, Path)
                return read_clip(item.content, sounds[str(item.path)], rate, size, channels)
            except ValueError as error:
                return error

        for number, clip in in_order(read, range(len(items)), how.workers or os.cpu_count() or 1, ahead=1):
            path, label = items[number].path, items[number].label
            if isinstance(clip, Exception):
                about["unheard" if isinstance(clip, _Unheard) else "skipped"].append(
                    (path, check.reason(clip))
                )
            else:
                about["clips"].append(_write(stream, clip))
                about["paths"].append(path)
                about["labels"].append(label)
            if how.progress is not None:
                how.progress(number + 1, len(items))
        return about

    key = ["audio-visual", 1, source.fingerprint, stamps, rate, size, channels]
    content, about = kept(key, write, folder_of(how.cache))
    broken, unheard = (
        [Skipped(source.prefix + path, reason) for path, reason in about[kind]]
        for kind in ("skipped", "unheard")
    )
    paths = [source.prefix + path for path in about["paths"]]
    if not paths and unheard:
        raise UserError(f"{source.name} must hold clips that can be heard, got {unheard[0].reason}")
    refuse_broken(source.name, broken, len(paths) + len(unheard), how.max_broken)
    known = numbered(source.stated(paths, about["labels"]), reading.classes)
    return Pairs(
        content,
        torch.tensor(about["clips"]),
        sample_rate=rate,
        channels=channels,
        name=source.name,
        paths=paths,
        labels=known.tensor,
        classes=known.classes,
        skipped=source.skipped + broken + unheard + known.skipped(source.name),
    )


class _Unheard(ValueError):
    """A clip that is whole, but has nothing to hear."""


def read_clip(
    path: Path, sound: Path | None, rate: int, store_size: int = _STORE_SIZE, channels: int = 3
) -> Clip:
    """Read a clip whole; of fast videos every second, third or later frame, about 12 in a second.

    Args:
        path: A video or a picture.
        sound: The sound beside it; None takes the video's own track.
        rate: Samples of sound per second to be given, in hertz.
        store_size: Shorter side in pixels to which larger frames are resized.
        channels: 1 for grey or 3 for colour.

    Raises:
        ValueError: It cannot be read, has no sound, or is silent.
    """
    still = path.suffix.lower() in decode.SUFFIXES and path.suffix.lower() != ".gif"
    if still:
        if sound is None:
            raise _Unheard(f"no sound of the same name beside {path.name}")
        frames, start, times = decode.decode(path, store_size, channels)[None], 0.0, np.zeros(0)
    else:
        known = decode_video.index(path)
        step = max(1, int(known.fps / _MOST_FPS + 1e-6))
        shown, count = [], 0
        for count, frame in enumerate(decode_video.frames(path, store_size), 1):
            if count % step == 1 % step:
                shown.append(frame)
        if count != len(known):
            raise UserError(f"damaged: {count} of {len(known)} frames can be decoded")
        frames = np.stack(shown)
        start, times = float(known.times[0]), known.times[::step] - known.times[0]
        if channels == 1 and frames.shape[1] == 3:
            weights = np.array([0.299, 0.587, 0.114], np.float32)
            frames = np.rint(np.tensordot(frames, weights, ([1], [0])))[:, None].astype(np.uint8)
    # A sound beside a video starts with it, whatever the video's clock says at its first frame.
    heard = read_sound(path, rate, start) if sound is None else read_sound(sound, rate, None)
    if np.abs(heard).max(initial=0) < _SILENCE:
        raise _Unheard("silent")
    if still:
        times = np.arange(int(len(heard) / rate * _STILL_FPS) + 1) / _STILL_FPS
    pcm = np.rint(heard * _FULL_SCALE).clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return Clip(frames, times, pcm)


def read_sound(path: Path, rate: int, start: float | None = None) -> NDArray[np.float32]:
    """The sound of a file as one channel, placed by its time stamps.

    Args:
        path: A sound or a video with a sound track.
        rate: Samples per second to be given, in hertz; others are converted.
        start: Time on the clock of the file at which the result starts, in seconds: what is before is cut off,
            what is missing is silence. None starts with the first sample.

    Returns:
        Float32, shape (samples,), in -1..1.

    Raises:
        ValueError: It cannot be read or has no sound.
    """
    pieces: list[tuple[float | None, NDArray[np.float32]]] | None = None
    native = 0
    with decode_video.open_media(path) as container:
        if container.streams.audio:
            pieces, most = [], max(_UNPACKED, _RATIO * path.stat().st_size)
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            native = stream.codec_context.sample_rate
            mono = _av().AudioResampler(format="fltp", layout="mono", rate=native)
            for frame in container.decode(stream):
                time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
                frame.pts = None  # else the mixer would fill gaps by its own rules
                mixed = [part.to_ndarray()[0] for part in mono.resample(frame)]
                pieces.append((None if time is None else float(time), np.concatenate(mixed)))
                most -= len(pieces[-1][1])
                if most < 0:
                    raise UserError(f"its sound unpacks to more than {_RATIO} samples for each of its bytes")
    if pieces is None:
        raise _Unheard("no sound track")
    if not pieces:
        raise _Unheard("no sound in its track")
    sound = _placed(pieces, native, start)
    return sound if native == rate else _converted(sound, native, rate)


def _placed(
    pieces: Sequence[tuple[float | None, NDArray[np.float32]]], rate: int, start: float | None
) -> NDArray[np.float32]:
    """Pieces of sound put where their times say, those that only jitter joined without a seam."""
    start = (pieces[0][0] or 0.0) if start is None else start
    position, places = round(((pieces[0][0] or 0.0) - start) * rate), []
    for time, piece in pieces:
        # Some containers round times to milliseconds, which would tear every seam open.
        if time is not None and abs((time - start) * rate - position) > _JITTER_SECONDS * rate:
            position = round((time - start) * rate)
        places.append(position)
        position += len(piece)
    ends = [place + len(piece) for place, (_, piece) in zip(places, pieces)]
    heard = sum(len(piece) for _, piece in pieces)
    if max(map(abs, ends)) > _GAPS * heard + _GAP_SECONDS * rate:
        raise UserError(
            f"sound must not have gaps that are much longer than it is, got an end at {max(ends)}"
        )
    sound = np.zeros(max(0, *ends), np.float32)
    for place, end, (_, piece) in zip(places, ends, pieces):
        if end > 0:
            sound[max(0, place) : end] = piece[max(0, -place) :]
    return sound


def _converted(sound: NDArray[np.float32], native: int, rate: int) -> NDArray[np.float32]:
    """The same sound at another rate, aligned with itself."""
    av = _av()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
    frame.sample_rate = native
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    parts = [part.to_ndarray()[0] for given in (frame, None) for part in resampler.resample(given)]
    # A moment so short that no sample of the new rate falls into it gives no part.
    return np.concatenate([np.zeros(0, np.float32), *parts])[: round(len(sound) * rate / native)]


def _beside(path: Path) -> Path | None:
    """The sound of the same name in the same folder."""
    candidates = (path.with_suffix(suffix) for suffix in SOUND_SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _usual_rate(sources: Sequence[Source]) -> int:
    """The commonest sample rate of the sounds, but no more than is worth while."""
    rates: Counter[int] = Counter()
    for source in sources:
        for item in source.read().items:
            if isinstance(item.content, Path):
                rates.update(_rate_of(_beside(item.content) or item.content))
    return min(_HIGHEST_RATE, rates.most_common(1)[0][0]) if rates else _HIGHEST_RATE


def _rate_of(path: Path) -> list[int]:
    try:
        with decode_video.open_media(path) as container:
            return [stream.codec_context.sample_rate for stream in container.streams.audio[:1]]
    except ValueError:  # it is reported when it is read
        return []


def _av() -> Any:
    import av

    return av


def _write(stream: BinaryIO, clip: Clip) -> list[int]:
    """Append a clip to a file; returns its row of `Pairs.clips`."""
    content = clip.times.astype("<f8").tobytes() + clip.sound.astype("<i2").tobytes() + clip.frames.tobytes()
    stream.write(content + bytes(-len(content) % _ALIGNMENT))
    return [len(clip.times), len(clip.sound), len(clip.frames), *clip.frames.shape[2:]]
