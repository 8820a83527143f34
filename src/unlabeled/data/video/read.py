"""Videos in files and arrays, decoded once.

Read are folders of video files, perhaps in class folders and these in split folders; folders of folders of frames;
.npy files, .npz files and arrays of shape (samples, frames, channels, height, width), or in numpy with the channels
last, or without them; and single files. All frames of a data set get one size: its usual aspect, with a shorter side of
`store_size`; what is wider or higher is cut off around the centre. Official splits are those of `official`.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, as_uint8, channels_first, read_npy, read_splits
from unlabeled.data.cache import folder_of, load_or_build
from unlabeled.data.decoding import Recorder, samples_of
from unlabeled.data.files import davis_frames, is_davis, walk
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import SUFFIXES as IMAGES
from unlabeled.data.labels import from_array, numbered, refuse_column
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions, refuse_fold
from unlabeled.data.pool import in_order, or_reason, reason_of
from unlabeled.data.samples import Item
from unlabeled.data.sources import Source, find_files
from unlabeled.data.video.data import Videos, from_videos
from unlabeled.data.video.decode import SUFFIXES, frames, index, read_all
from unlabeled.data.video.official import listing, official_sources, recordings

__all__ = ["find"]

_LARGEST = 2**28
"""Bytes of the frames of a video up to which it is decoded as a whole."""


def find(
    source: str | os.PathLike[str] | np.ndarray | Tensor, options: OpenOptions
) -> Mapping[str, Callable[[], Videos]]:
    """What opens each split of videos; "all" where there are none.

    Args:
        source: A folder of video files or of folders of frames, perhaps in class folders and these in split folders;
            a folder in the layout of DAVIS, of which the frames are read; one video file; a .npy or .npz file
            (`videos` and perhaps `labels`, or both once per split as `train_videos` and so on); or an array.
        options: How they are opened. `channels` None makes files colour and leaves arrays as they are.

    Raises:
        ValueError: There is no video.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        refuse_fold(options.fold, "an array")
        return {"all": partial(_from_array, {"videos": source}, "array", options)}
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_file():
        refuse_fold(options.fold, name)
    if is_davis(path):
        path = davis_frames(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        parts = read_splits(path, "videos", ("labels",))
        return {split: partial(_from_array, part, str(path), options) for split, part in parts.items()}
    if path.suffix.lower() == ".npy" and path.is_file():
        array = read_npy(path)
        if array.ndim != 4 or array.shape[-1] not in (1, 3):  # else it is one video
            return {"all": partial(_from_array, {"videos": array}, name, options)}
    below, suffixes = walk(path), (*SUFFIXES, ".npy")
    videos = [file for file in below.files if file.ends(suffixes)]
    stills = [] if videos else [file for file in below.files if file.ends(IMAGES)]
    still = bool(stills)
    sources = official_sources(below, name, videos or stills, still, options.fold)
    if sources is not None:
        refuse_column(options.label, f"videos with official splits in {name}")
    elif still:
        refuse_column(options.label, f"frames in {name}")
        sources = find_files(path, name, IMAGES, "videos or frames")
    else:
        sources = find_files(path, name, suffixes, "videos", options.label)
    return {split: partial(_open, part, options, still) for split, part in sources.items()}


def _open(source: Source, options: OpenOptions, still: bool) -> Videos:
    """Videos of a source, decoded once; where it holds still images, each folder of them is a video."""
    store_size, channels = options.side("video"), options.channels or 3
    key = ["videos", 2, source.fingerprint, store_size, channels, still]
    pixels, facts = load_or_build(key, partial(_write, source, options, still), folder_of(options.cache))
    about = samples_of(source, facts, options.max_broken)
    if broken := facts["skipped"]:
        count = f"{len(broken):,} of {len(broken) + len(about['paths']):,}"
        note(
            f"{source.name}: skipped {count} videos that cannot be read: {listing([path for path, _ in broken])}"
        )
    about["groups"] = recordings(about["paths"])
    size = (channels, *facts["size"])
    return Videos(pixels, torch.tensor(facts["counts"]), size, fps=torch.tensor(facts["fps"]), **about)


def _listed(source: Source, still: bool) -> tuple[list[str] | None, list[Item]]:
    """Names of the classes, and the videos."""
    reading = source.read()
    items = [item._replace(content=Path(str(item.content))) for item in reading.items]
    if not still:
        return reading.classes, items
    folders: dict[str, Item] = {}
    for item in items:
        folder = os.path.dirname(item.path)
        # The folder that holds the frames is the video; only one above it is a class.
        label = item.label if item.label != os.path.basename(folder) else None
        folders.setdefault(folder, Item(folder, label, item.content.parent))
    videos = list(folders.values())
    names = {video.label for video in videos}
    return (None if None in names or len(names) < 2 else reading.classes), videos


def _write(source: Source, options: OpenOptions, still: bool, stream: BinaryIO) -> dict[str, Any]:
    """Write all frames of all videos one after the other and describe them."""
    classes, videos = _listed(source, still)
    store_size, channels = options.side("video"), options.channels or 3
    recorder = Recorder(stream, len(videos), options.progress, ("counts", "fps"))
    indices = {}
    for video, result in in_order(
        or_reason(lambda video: index(video.content)), videos, options.threads, ahead=1
    ):
        if isinstance(result, str):
            recorder.skip(video.path, result)
        else:
            indices[video.path] = result
    size = _common_size([(about.height, about.width) for about in indices.values()], store_size)
    small, large = [], []
    for video in videos:
        if (about := indices.get(video.path)) is not None:
            (large if len(about) * 3 * size[0] * size[1] > _LARGEST else small).append(video)
    whole = or_reason(lambda video: with_channels(read_all(video.content, size), channels))
    for video, result in in_order(whole, small, options.threads, ahead=1):
        if isinstance(result, str):
            recorder.skip(video.path, result)
        else:
            facts = {"labels": video.label, "counts": len(result), "fps": indices[video.path].fps}
            recorder.add(video.path, result.tobytes(), **facts)
    for video in large:  # a film does not fit into memory: frame by frame
        start, count = stream.tell(), 0
        try:
            for frame in frames(video.content, size):
                stream.write(with_channels(frame, channels).tobytes())
                count += 1
        except (ValueError, OSError) as error:
            stream.seek(start)
            stream.truncate()
            recorder.skip(video.path, reason_of(error, video.content))
        else:
            recorder.add(video.path, b"", labels=video.label, counts=count, fps=indices[video.path].fps)
    return recorder.facts | {"size": size, "classes": classes}


def _common_size(sizes: list[tuple[int, int]], store_size: int) -> tuple[int, int]:
    """Height and width of all frames: the usual aspect, the usual shorter side but no more than `store_size`."""
    if not sizes:
        return store_size, store_size
    array = np.array(sizes)
    short = min(store_size, int(np.median(array.min(1))))
    aspect = float(np.median(array[:, 1] / array[:, 0]))
    return (short, round(short * aspect)) if aspect >= 1 else (round(short / aspect), short)


def _from_array(part: Mapping[str, np.ndarray | Tensor], name: str, options: OpenOptions) -> Videos:
    array, labels = part["videos"], part.get("labels")
    pixels = as_tensor(array, name)
    if pixels.ndim == 4:
        pixels = rearrange(pixels, "samples frames h w -> samples frames 1 h w")
    if pixels.ndim == 5:
        pixels = channels_first(pixels)
    if pixels.ndim != 5 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(
            f"{name} must have axes samples, frames, channels, height, width with 1 or 3 channels, "
            f"got shape {tuple(array.shape)}"
        )
    pixels = as_uint8(pixels, name)
    if options.channels not in (None, pixels.shape[2]):
        pixels = torch.from_numpy(with_channels(pixels.numpy(), options.channels))
    if labels is None:
        return from_videos(pixels, name=name)
    numbers = numbered(from_array(labels, len(pixels), name))
    return from_videos(
        pixels, numbers.tensor, name=name, classes=numbers.classes, skipped=numbers.skipped(name)
    )
