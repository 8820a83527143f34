"""Pictures with the sound that was heard when they were seen, in files, decoded once.

Read are videos with their sound track, and videos or pictures beside a sound of the same name (`dog.mp4` or
`dog.jpg` with `dog.wav`). Sound and frames lie on the clock of the file, by their time stamps: what an encoder
of sound puts before the first sample is cut off, and gaps are filled with silence.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.audio.data import in_16_bits
from unlabeled.data.audio_visual.data import Clip, Pairs
from unlabeled.data.cache import folder_of, load_or_build
from unlabeled.data.decoding import Recorder, samples_of
from unlabeled.data.files import SOUNDS, walk
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import SUFFIXES as IMAGES
from unlabeled.data.image.decode import decode
from unlabeled.data.limits import most_samples
from unlabeled.data.options import STORE_SIZES, OpenOptions
from unlabeled.data.pool import in_order, or_reason
from unlabeled.data.samples import Item
from unlabeled.data.sources import Source, find_files
from unlabeled.data.video.decode import SUFFIXES, frames, index, open_media

__all__ = ["find", "read_clip", "read_sound"]

STILL_SUFFIXES = tuple(suffix for suffix in IMAGES if suffix != ".gif")

_HIGHEST_RATE = 16_000
_MOST_FPS = 12.5
_STILL_FPS = 25.0
_SILENCE = 1e-3
_JITTER_SECONDS = 0.005
_GAPS, _GAP_SECONDS = 10, 600
"""How many times the length of what is heard a sound may have, and the seconds of gaps that any may have."""


def find(source: Any, options: OpenOptions) -> Mapping[str, Callable[[], Pairs]]:
    """What opens each split of a folder of videos with sound, or of pictures beside sounds; "all" without splits.

    Args:
        source: A folder, perhaps with class folders, and these perhaps in split folders, or one file.
        options: How it is opened.

    Raises:
        ValueError: Nothing of that kind is there.
    """
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"data must be a folder, a file or Data, such as from_pairs gives, got {type(source).__name__}"
        )
    path, name = Path(source).expanduser(), os.fspath(source)
    if any(file.ends(SUFFIXES) for file in walk(path).files):
        sources = find_files(path, name, SUFFIXES, "videos", options.label)
    else:
        sources = find_files(path, name, STILL_SUFFIXES, "videos, or pictures beside sounds,", options.label)
    rate = options.sample_rate or _usual_rate(sources.values())
    return {split: partial(_open, part, options, rate) for split, part in sources.items()}


def _open(source: Source, options: OpenOptions, rate: int) -> Pairs:
    """One split, from the cache where that fits."""
    reading = source.read()
    items = list(reading.items)
    sounds = {item.path: _beside(item.content) for item in items}
    stamps = [
        [path, str(sound), sound.stat().st_size, sound.stat().st_mtime_ns]
        for path, sound in sounds.items()
        if sound
    ]
    size, channels = options.side("audio-visual"), options.channels or 3

    def clip_of(item: Item) -> Clip | _Unheard:
        try:
            return read_clip(item.content, sounds[item.path], rate, size, channels)
        except _Unheard as error:
            return error

    def write(stream: BinaryIO) -> dict[str, Any]:
        recorder = Recorder(stream, len(items), options.progress, ("clips", "unheard"))
        for item, clip in in_order(or_reason(clip_of), items, options.threads, ahead=1):
            if isinstance(clip, Clip):
                recorder.add(item.path, clip.packed(), labels=item.label, clips=clip.lengths)
            elif isinstance(clip, _Unheard):
                recorder.skip(item.path, check.reason(clip), "unheard")
            else:
                recorder.skip(item.path, clip)
        return recorder.facts

    key = ["audio-visual", 1, source.fingerprint, stamps, rate, size, channels]
    content, facts = load_or_build(key, write, folder_of(options.cache))
    if facts["unheard"] and not facts["paths"]:
        raise UserError(f"{source.name} must hold clips that can be heard, got {facts['unheard'][0][1]}")
    about = samples_of(
        source, facts | {"classes": reading.classes}, options.max_broken, unusable=facts["unheard"]
    )
    clips = torch.tensor(facts["clips"])
    return Pairs(content, clips, sample_rate=rate, channels=channels, **about)


class _Unheard(ValueError):
    """A clip that is whole, but has nothing to hear."""


def read_clip(
    path: Path,
    sound: Path | None,
    rate: int,
    store_size: int = STORE_SIZES["audio-visual"],
    channels: int = 3,
) -> Clip:
    """Read a clip whole; of fast videos every second, third or later frame, about 12 in a second.

    Args:
        path: A video or a picture.
        sound: The sound beside it; None takes the video's own track.
        rate: Samples of sound per second of the result, in hertz.
        store_size: Shorter side in pixels to which larger frames are resized.
        channels: 1 for grey or 3 for colour.

    Raises:
        ValueError: It cannot be read, has no sound, or is silent.
    """
    still = path.suffix.lower() in STILL_SUFFIXES
    if still:
        if sound is None:
            raise _Unheard(f"no sound of the same name beside {path.name}")
        images, start, times = decode(path, store_size, channels)[None], 0.0, np.zeros(0)
    else:
        about, count, images = index(path), 0, []
        step = max(1, int(about.fps / _MOST_FPS + 1e-6))
        for frame in frames(path, store_size):
            images += [frame] if count % step == 0 else []
            count += 1
        if count != len(about):
            raise UserError(f"damaged: {count} of {len(about)} frames can be decoded")
        images = with_channels(np.stack(images), channels)
        start, times = float(about.times[0]), about.times[::step] - about.times[0]
    # A sound beside a video starts with it, whatever the video's clock says at its first frame.
    heard = read_sound(path, rate, start) if sound is None else read_sound(sound, rate, None)
    if np.abs(heard).max(initial=0) < _SILENCE:
        raise _Unheard("silent")
    if still:
        times = np.arange(int(len(heard) / rate * _STILL_FPS) + 1) / _STILL_FPS
    return Clip(images, times, in_16_bits(torch.from_numpy(heard)).numpy())


def read_sound(path: Path, rate: int, start: float | None = None) -> NDArray[np.float32]:
    """The sound of a file as one channel, placed by its time stamps.

    Args:
        path: A sound or a video with a sound track.
        rate: Samples per second of the result, in hertz; others are converted.
        start: Time on the clock of the file at which the result starts, in seconds: what is before is cut off,
            what is missing is silence. None starts with the first sample.

    Returns:
        Float32, shape (samples,), in -1..1.

    Raises:
        ValueError: It cannot be read or has no sound.
    """
    pieces: list[tuple[float | None, NDArray[np.float32]]] = []
    native = 0
    with open_media(path) as container:
        if container.streams.audio:
            import av

            most = most_samples(path.stat().st_size)
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            native = stream.codec_context.sample_rate
            mono = av.AudioResampler(format="fltp", layout="mono", rate=native)
            for frame in container.decode(stream):
                time = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
                frame.pts = None  # else the mixer would fill gaps by its own rules
                mixed = np.concatenate([part.to_ndarray()[0] for part in mono.resample(frame)])
                pieces.append((None if time is None else float(time), mixed))
                most -= len(mixed)
                if most < 0:
                    raise UserError("its sound unpacks to more samples than a file of its size may hold")
    if not native:
        raise _Unheard("no sound track")
    if not pieces:
        raise _Unheard("no sound in its track")
    sound = _placed(pieces, native, start)
    return sound if native == rate else _converted(sound, native, rate)


def _placed(
    pieces: Sequence[tuple[float | None, NDArray[np.float32]]], rate: int, start: float | None
) -> NDArray[np.float32]:
    """Pieces of sound at the positions of their times, those that only jitter joined without a seam."""
    start = (pieces[0][0] or 0.0) if start is None else start
    position, positions = round(((pieces[0][0] or 0.0) - start) * rate), []
    for time, piece in pieces:
        # Some containers round times to milliseconds, which would tear every seam open.
        if time is not None and abs((time - start) * rate - position) > _JITTER_SECONDS * rate:
            position = round((time - start) * rate)
        positions.append(position)
        position += len(piece)
    ends = [position + len(piece) for position, (_, piece) in zip(positions, pieces)]
    heard = sum(len(piece) for _, piece in pieces)
    if max(map(abs, ends)) > _GAPS * heard + _GAP_SECONDS * rate:
        raise UserError(
            f"sound must not have gaps that are much longer than it is, got an end at {max(ends)}"
        )
    sound = np.zeros(max(0, *ends), np.float32)
    for position, end, (_, piece) in zip(positions, ends, pieces):
        if end > 0:
            sound[max(0, position) : end] = piece[max(0, -position) :]
    return sound


def _converted(sound: NDArray[np.float32], native: int, rate: int) -> NDArray[np.float32]:
    """The same sound at another rate, aligned with itself."""
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
    frame.sample_rate = native
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    parts = [part.to_ndarray()[0] for chunk in (frame, None) for part in resampler.resample(chunk)]
    # A moment so short that no sample of the new rate falls into it gives no part.
    return np.concatenate([np.zeros(0, np.float32), *parts])[: round(len(sound) * rate / native)]


def _beside(path: Path) -> Path | None:
    """The sound of the same name in the same folder."""
    candidates = (path.with_suffix(suffix) for suffix in SOUNDS)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _usual_rate(sources: Iterable[Source]) -> int:
    """The commonest sample rate of the sounds, but no more than 16 kHz."""
    rates: Counter[int] = Counter()
    for item in (item for source in sources for item in source.read().items):
        try:
            with open_media(_beside(item.content) or item.content) as container:
                rates.update(stream.codec_context.sample_rate for stream in container.streams.audio[:1])
        except ValueError:  # it is recorded when it is read
            continue
    return min(_HIGHEST_RATE, rates.most_common(1)[0][0]) if rates else _HIGHEST_RATE
