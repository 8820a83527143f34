"""Scenes in files and arrays, decoded once.

Read are

- a folder with a folder for each scene, in which each camera is a video (`scene/left.mp4`) or a folder of images in the
  order of their names (`scene/left/000001.jpg`); scenes may lie in `train` and `test` folders;
- a folder of .npz files, one for each scene, with `views` of shape (cameras, frames, height, width, channels) or with
  the channels before the height;
- one .npz file with `views` of all scenes, which has one axis more, or with `train_views` and `test_views`; other
  arrays of as many rows are factors.

Cameras are in the order of their names. The films of a scene start together; the longest are cut to the shortest.
Images become squares: their middle, resized to `store_size` (64 if None); arrays stay as they are.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_tensor, read_npz, read_splits
from unlabeled.data.cache import folder_of, load_or_build
from unlabeled.data.cameras.data import Scenes, from_views, pixels_of
from unlabeled.data.decoding import Recorder, samples_of
from unlabeled.data.files import File, by_folder, walk
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import SUFFIXES as IMAGES
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.pool import in_order, or_reason
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Reading, Source
from unlabeled.data.video.decode import SUFFIXES, read_all

__all__ = ["find"]


def find(source: Any, options: OpenOptions) -> Mapping[str, Callable[[], Scenes]]:
    """What opens each split of a source; "all" where it has none.

    Args:
        source: A path, or an array as in `from_views`.
        options: How it is opened.

    Raises:
        ValueError: No scenes are there.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return {"all": partial(from_views, source)}
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_file():
        return {
            split: partial(_from_arrays, part, path) for split, part in read_splits(path, "views").items()
        }
    files = walk(path).files
    arrays = [file for file in files if file.suffix == ".npz"]
    parts, _ = by_folder(arrays or [file for file in files if file.suffix in (*SUFFIXES, *IMAGES)])
    if not any(parts.values()):
        raise UserError(
            f"no scenes in {source}; expected scene/camera.mp4, scene/camera/000001.jpg or .npz files"
        )
    read = _open_arrays if arrays else _open_films
    return {split: partial(read, path, name, part, options) for split, part in parts.items()}


def _from_arrays(part: Mapping[str, np.ndarray], path: Path) -> Scenes:
    views = part["views"]
    factors = {
        key: as_tensor(values, f"{key} of {path}")
        for key, values in part.items()
        if key != "views" and values.shape[:1] == views.shape[:1]
    }
    return from_views(views, name=str(path), factors=factors)


def _open_arrays(root: Path, name: str, files: Sequence[File], options: OpenOptions) -> Scenes:
    """Scenes of .npz files, one each."""
    scenes, paths, skipped = [], [], []
    for path in (str(root / file.path) for file in files):
        try:
            content, _ = read_npz(Path(path))
            if "views" not in content:
                raise UserError(f"must hold views, got {check.one_line(', '.join(content)) or 'nothing'}")
            views = pixels_of(content["views"], path, 5)
            if scenes and (views.shape[:1], views.shape[2:]) != (scenes[0].shape[:1], scenes[0].shape[2:]):
                raise UserError(f"views differ from those of {paths[0]} in cameras or size")
        except ValueError as error:
            skipped.append(Skipped(path, check.reason(error)))
            continue
        scenes.append(views)
        paths.append(path)
    refuse_broken(name, skipped, len(scenes), options.max_broken)
    pixels = torch.cat([views.flatten(0, 1) for views in scenes])
    lengths = torch.tensor([views.shape[1] for views in scenes])
    return Scenes(pixels, lengths, cameras=scenes[0].shape[0], name=name, paths=paths, skipped=skipped)


def _open_films(root: Path, name: str, files: Sequence[File], options: OpenOptions) -> Scenes:
    """Scenes of videos or folders of images, decoded once."""
    scenes: dict[str, set[str]] = {}
    for file in files:  # a camera is a video, or the folder of an image
        camera = file.path if file.suffix in SUFFIXES else os.path.dirname(file.path)
        scenes.setdefault(os.path.dirname(camera), set()).add(camera)
    cameras = Counter(map(len, scenes.values())).most_common(1)[0][0]
    size, channels = options.side("cameras"), options.channels or 3

    def films_of(scene: Item) -> list[np.ndarray]:
        if len(scene.content) != cameras:
            raise UserError(f"{len(scene.content)} cameras, where most scenes have {cameras}")
        films = [read_all(root / camera, (size, size)) for camera in scene.content]
        return [with_channels(film[: min(map(len, films))], channels) for film in films]

    def write(stream: BinaryIO) -> dict[str, Any]:
        recorder = Recorder(stream, len(scenes), options.progress, ("lengths",))
        for scene, films in in_order(or_reason(films_of), items, options.threads, ahead=1):
            if isinstance(films, str):
                recorder.skip(scene.path, films)
            else:
                recorder.add(scene.path, b"".join(film.tobytes() for film in films), lengths=len(films[0]))
        return recorder.facts

    items = [Item(scene, None, sorted(films)) for scene, films in sorted(scenes.items())]
    source = Source(
        name,
        lambda: Reading(None, len(items), items),
        [os.path.realpath(root), files],
        os.path.join(root, ""),
    )
    key = ["cameras", *source.fingerprint, size, channels]
    pixels, facts = load_or_build(key, write, folder_of(options.cache))
    about = samples_of(source, facts, options.max_broken)
    pixels = pixels.view(-1, channels, size, size)
    return Scenes(pixels, torch.tensor(facts["lengths"]), cameras=cameras, **about)
