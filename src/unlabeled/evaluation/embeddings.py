"""Features of every sample with its path, for search, maps and tables elsewhere.

A file is written as the features come, so that memory does not grow with the samples; it is there whole or not at all.
"""

import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.options import refuse_unknown
from unlabeled.data.samples import unread
from unlabeled.evaluation import geometry, readouts
from unlabeled.evaluation.embedding_files import WRITERS, Piece
from unlabeled.evaluation.features import Reader, read, require_finite
from unlabeled.evaluation.model import CPU, frozen, pick_device
from unlabeled.evaluation.sources import Source
from unlabeled.files import atomic, printable, refuse_input
from unlabeled.kernels import heap
from unlabeled.method import Batch
from unlabeled.options import Reading
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from PIL.Image import Image

    from unlabeled.data import Data

__all__ = ["BATCH", "as_picture", "embed", "embedding_pieces", "features_of", "write_file"]

BATCH = 256
THUMBNAIL = 64
MAPPED = 5000
"""Samples from which on t-SNE would take minutes."""


@heap.retain_freed_memory()
def embed(
    run: Any,
    data: Any,
    *,
    layer: str | None = None,
    features: str | None = None,
    out: str | Path | None = None,
    thumbnails: bool = False,
    coordinates: bool = False,
    progress: Callable[[str], None] | None = None,
    device: str = "auto",
    **reading: Unpack[Reading],
) -> tuple[Tensor, list[str]]:
    """Compute the features of every sample of every split; no label is needed.

    Args:
        run: A run, a method or an encoder.
        data: Whatever `open_data` takes.
        layer: Name of a map to read instead of the encoder's output.
        features: As in `evaluate`, fitted to the training part of the data; choose goes by neighbours' held-out labels.
        out: File to write, with the path of each sample, its split ("all" where there are none), the name of its class
            and the number of its group, both missing where they are unknown. Its ending says how: .parquet has the
            columns `path`, `split`, `label`, `group` and `embedding`; .csv has the first four, then `0`, `1` and so on;
            .npz has arrays `embeddings`, `paths`, `splits`, `labels` ("" for none) and `groups` (-1 for none); .npy has
            the features alone.
        thumbnails: Whether a parquet file has a column `image` too: a struct of `bytes`, a PNG of at most 64 pixels on
            a side, and `path`.
        coordinates: Whether a parquet file has columns `x` and `y` too, a map of the features in 0..1: t-SNE, or PCA
            where there are fewer than 50 samples or more than 5,000.
        progress: Called with a line on the features, the coordinates, and files that cannot be read.
        device: auto, cpu, cuda or mps.
        **reading: label, text_column, encoding, group and fold, as in `open_data`; None takes those of the run.

    Returns:
        Features on the CPU, float32, shape (samples, dim), and the path of each sample, split after split; where a file
        is written, in a nameless file beside it, not in memory.

    Raises:
        ValueError: The ending of `out` is another one, it is a file of the data, or a feature is NaN or infinite.
    """
    refuse_unknown(embed, reading)
    target = _target(out, thumbnails or coordinates)
    refuse_input(target, data)
    if layer is not None and features is not None:
        raise UserError(f"layer must be left out with features, got {layer}")
    hardware, run, tell = pick_device(device), opened_run(run), progress or (lambda line: None)
    if layer is None:
        encoder, reader = readouts.features_reader(
            run, features, data, device=device, reading=reading, progress=tell
        )
    else:
        encoder, reader = frozen(run, hardware)
    splits = _told(Source.of(run, encoder, data, reading=reading).splits(encoder), tell)
    vectors = partial(features_of, reader, layer)
    if target is not None and not coordinates:
        return _write(target, embedding_pieces(splits, vectors, hardware, thumbnails))
    return _in_memory(list(splits), vectors, hardware, target, thumbnails, tell)


def _told(splits: "Iterator[tuple[str, Data]]", tell: Callable[[str], None]) -> "Iterator[tuple[str, Data]]":
    """The same splits, with a line on the files of each that cannot be read."""
    for split, samples in splits:
        if line := unread(samples.skipped):
            tell(line)
        yield split, samples


def _target(out: str | Path | None, of_parquet: bool) -> Path | None:
    """The file to write, whose ending must be known, and parquet for what only that holds."""
    target = None if out is None else Path(out)
    if target is not None and target.suffix.lower() not in WRITERS:
        raise UserError(f"out must end with {', '.join(WRITERS)}, got {target.name}")
    if of_parquet and (target is None or target.suffix.lower() != ".parquet"):
        raise UserError(f"out must end with .parquet for thumbnails and coordinates, got {out}")
    return target


def _in_memory(
    splits: "list[tuple[str, Data]]",
    reader: Callable[[Batch], Tensor],
    device: torch.device,
    target: Path | None,
    thumbnails: bool,
    tell: Callable[[str], None],
) -> tuple[Tensor, list[str]]:
    """All features at once; where a file is written, with the coordinates that these give."""
    features = torch.cat([read(reader, samples.to(device)).cpu() for _, samples in splits])
    if target is None:
        return features, [path for _, samples in splits for path in samples.paths]
    return write_file(target, splits, features, _plane(features, tell), thumbnails=thumbnails, device=device)


def write_file(
    target: Path,
    splits: "list[tuple[str, Data]]",
    features: Tensor,
    points: Tensor | None = None,
    *,
    thumbnails: bool = False,
    device: torch.device = CPU,
) -> tuple[Tensor, list[str]]:
    """Write features that are there, as `embed` writes them.

    Args:
        target: File, whose ending is one that `embed` knows.
        splits: Samples by split.
        features: Of all samples, one split after the other, float, shape (samples, dim).
        points: Of a map of them, shape (samples, 2).
        thumbnails: Whether small images are written too.
        device: Where batches are made.
    """
    rows = partial(_next, iter(features))
    return _write(target, embedding_pieces(iter(splits), rows, device, thumbnails, points))


def features_of(reader: Reader, layer: str | None, batch: Batch) -> Tensor:
    """Features of a batch, float, shape (batch, ...)."""
    return reader(batch, layer)


def _next(rows: Iterator[Tensor], batch: Batch) -> Tensor:
    """The rows of a batch from those of all samples."""
    return torch.stack([next(rows) for _ in batch["index"]])


def _plane(features: Tensor, tell: Callable[[str], None]) -> Tensor:
    """A map of features in a plane, float, shape (samples, 2), in 0..1, and a line on how it was made."""
    points, name = geometry.flat(features, most=MAPPED) or (torch.full((len(features), 2), 0.5), "")
    tell(f"x and y: {name} of the features" if name else "x and y: 0.5, as the features are all the same")
    return points


def as_picture(pixels: Tensor) -> "Image":
    """An image of Pillow from uint8, shape (channels, height, width); of other channels than colours their mean."""
    from PIL import Image as images

    pixels = pixels if len(pixels) in (1, 3) else pixels.float().mean(0, keepdim=True).to(torch.uint8)
    return images.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())


def _thumbnails(batch: Batch) -> list[bytes]:
    """PNGs of the images of a batch, at most 64 pixels on a side; of other channels than colours their mean."""
    if "image" not in batch:
        raise UserError(f"thumbnails must be of images, got samples of {', '.join(sorted(batch))}")
    images, files = batch["image"].cpu(), []
    sizes = batch["size"].tolist() if "size" in batch else [images.shape[2:]] * len(images)
    for image, (height, width) in zip(images, sizes, strict=True):
        picture = as_picture(image[:, :height, :width])
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(buffer := io.BytesIO(), "png")
        files.append(buffer.getvalue())
    return files


def embedding_pieces(
    splits: "Iterator[tuple[str, Data]]",
    reader: Callable[[Batch], Tensor],
    device: torch.device,
    thumbnails: bool = False,
    points: Tensor | None = None,
) -> Iterator[Piece]:
    """Features of all samples, a batch at a time; points lie in the order of the samples."""
    done = 0
    for split, samples in splits:
        start = 0
        for batch in samples.to(device).batches(BATCH):
            with torch.no_grad():
                vectors = reader(batch).flatten(1).float().cpu()
            require_finite(vectors, "samples of a batch")
            rows = slice(start, start := start + len(vectors))
            labels, groups = samples.class_names(rows), _groups(samples, rows)
            known = samples.paths[rows], [split] * len(vectors), labels, groups
            images = _thumbnails(batch) if thumbnails else None
            place = None if points is None else points[done : done + len(vectors)].numpy()
            done += len(vectors)
            yield Piece(vectors.numpy(), *known, images, place)


def _groups(samples: "Data", rows: slice) -> list[int | None]:
    return [None] * (rows.stop - rows.start) if samples.groups is None else [*samples.groups[rows].tolist()]


def _write(target: Path, pieces: Iterator[Piece]) -> tuple[Tensor, list[str]]:
    """Write pieces as they come; the features that are returned lie in a file without a name."""
    paths: list[str] = []
    dim = 0

    def spooled() -> Iterator[Piece]:
        nonlocal dim
        for piece in pieces:
            refuse_input(target, *piece.paths)
            spool.write(np.ascontiguousarray(piece.vectors).data)
            paths.extend(piece.paths)
            dim = piece.vectors.shape[1]
            # Names of files are bytes; those that are no UTF-8 are written with backslashes.
            yield piece._replace(paths=[printable(path) for path in piece.paths])

    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic(target) as temporary,
        tempfile.TemporaryFile(prefix=f".{target.name}.", dir=target.parent) as spool,
    ):
        WRITERS[target.suffix.lower()](temporary, spooled(), spool)
        spool.flush()
        vectors = np.memmap(spool, np.float32, "c", shape=(len(paths), dim)) if paths and dim else None
    return torch.zeros(len(paths), dim) if vectors is None else torch.from_numpy(vectors), paths
