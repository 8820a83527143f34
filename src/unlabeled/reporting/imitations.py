"""Scenes with an arm that can be moved: what another arm does that follows the demonstration by embeddings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlabeled.evaluation.frame_readers import FrameReader
from unlabeled.evaluation.imitation import degrees, demonstration, follow, grid, joints_of
from unlabeled.method import Method
from unlabeled.parts.augment import to_float
from unlabeled.reporting import pictures
from unlabeled.reporting.entry import Entry

__all__ = ["Imitation", "imitations"]

SCENES, COLUMNS = 3, 8


class Imitation(NamedTuple):
    """Frames of one demonstration, evenly from the whole of it, with what the other arm saw of itself."""

    scene: str
    error: float
    frames: list[int]
    shown: Tensor
    imitation: Tensor


def imitations(entries: Sequence[Entry], device: str) -> list[tuple[str, list[Imitation]]]:
    """Imitations of the first demonstrations by each run, with its label; none where no arm can be moved."""
    usable = [entry for entry in entries if getattr(entry.data, "simulator", None) is not None]
    by_run = [(entry.label, _imitations(entry, device)) for entry in usable if len(entry.data or ()) > 1]
    return [(label, films) for label, films in by_run if films]


def _imitations(entry: Entry, device: str) -> list[Imitation]:
    """By what the method compares, or else by the vector of the encoder."""
    scenes: Any = entry.data
    method, encoder = entry.method, entry.run.encoder
    home = next(encoder.parameters()).device
    if method is not None and type(method).embedding is not Method.embedding:
        read = method.to(device).embedding
    else:
        encoder = encoder.to(device)

        def read(batch: dict[str, Tensor]) -> Tensor:
            return encoder.features(encoder.inputs(batch))

    reader = FrameReader("unlabeled", None, "", read, torch.device(device))
    joints = joints_of(scenes)
    poses = grid(joints)
    films = []
    for row in range(min(SCENES, len(scenes))):
        shown = demonstration(scenes, row, (row + 1) % len(scenes), poses, joints)
        path = follow(reader.embed(shown.frames), reader.embed(shown.own), poses, shown.start)
        columns = torch.linspace(0, len(path) - 1, min(COLUMNS, len(path))).round().long()
        strips = (
            pictures.thumbnails(to_float(images), 2 * SCENES * COLUMNS)
            for images in (shown.frames[columns], shown.own[path[columns]])
        )
        error = float(degrees(poses[path], joints[row, : len(path)]))
        films.append(Imitation(scenes.paths[row], error, columns.tolist(), *strips))
    encoder.to(home)
    return films
