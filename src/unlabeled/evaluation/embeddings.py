"""Features of every sample with its path, for search, maps and tables elsewhere.

A file is written as the features come, so that memory does not grow with the samples; it is there whole or not at all.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.embedding_files import WRITERS, Piece
from unlabeled.evaluation.features import read, require_finite
from unlabeled.evaluation.model import frozen, pick_device
from unlabeled.evaluation.sources import Source
from unlabeled.files import atomic, printable
from unlabeled.kernels import heap
from unlabeled.method import Batch
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["embed"]

BATCH = 256


@heap.retain_freed_memory()
def embed(
    run: Any,
    data: Any,
    *,
    layer: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    label: str | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
    group: str | None = None,
) -> tuple[Tensor, list[str]]:
    """Compute the features of every sample of every split; no label is needed.

    Args:
        run: A run, a method or an encoder.
        data: Whatever `open_data` takes.
        layer: Name of a map to read instead of the encoder's output.
        out: File to write, with the path of each sample, its split ("all" where there are none), the name of its class
            and the number of its group, both missing where they are unknown. Its ending says how: .parquet has the
            columns `path`, `split`, `label`, `group` and `embedding`; .csv has the first four, then `0`, `1` and so on;
            .npz has arrays `embeddings`, `paths`, `splits`, `labels` ("" for none) and `groups` (-1 for none); .npy has
            the features alone.
        device: auto, cpu or cuda.
        label: Column of the labels, as in `open_data`; None takes that of the run.
        text_column: Column of a table that holds the texts, as in `open_data`; None takes that of the run.
        encoding: Encoding of texts, as in `open_data`; None takes that of the run.
        group: What says which samples are dependent, as in `open_data`; None takes that of the run on its own data.

    Returns:
        Features on the CPU, float32, shape (samples, dim), and the path of each sample, split after split. Where a
        file is written, the features lie in a nameless file beside it, not in memory, while they are in use.

    Raises:
        ValueError: The ending of `out` is another one, or a feature is NaN or infinite.
    """
    target = None if out is None else Path(out)
    if target is not None and target.suffix.lower() not in WRITERS:
        raise UserError(f"out must end with {', '.join(WRITERS)}, got {target.name}")
    hardware, run = pick_device(device), opened_run(run)
    encoder, reader = frozen(run, hardware)
    reading = {"label": label, "text_column": text_column, "encoding": encoding, "group": group}
    splits = Source.of(run, encoder, data, reading=reading).splits(encoder)
    if target is not None:
        return _write(target, _pieces(splits, lambda batch: reader(batch, layer), hardware))
    features, paths = [], []
    for _, samples in splits:
        features.append(read(lambda batch: reader(batch, layer), samples.to(hardware)).cpu())
        paths += samples.paths
    return torch.cat(features), paths


def _pieces(
    splits: "Iterator[tuple[str, Data]]", reader: Callable[[Batch], Tensor], device: torch.device
) -> Iterator[Piece]:
    """Features of all samples, a batch at a time."""
    for split, samples in splits:
        start = 0
        for batch in samples.to(device).batches(BATCH):
            with torch.no_grad():
                vectors = reader(batch).flatten(1).float().cpu()
            require_finite(vectors, "samples of a batch")
            rows = slice(start, start := start + len(vectors))
            labels, groups = _labels(samples, rows), _groups(samples, rows)
            yield Piece(vectors.numpy(), samples.paths[rows], [split] * len(vectors), labels, groups)


def _labels(samples: "Data", rows: slice) -> list[str | None]:
    """Names of the classes, None where they are unknown."""
    if samples.labels is None:
        return [None] * (rows.stop - rows.start)
    names = samples.classes
    numbers = samples.labels[rows].tolist()
    if names is None:
        return [str(number) if number != -1 else None for number in numbers]
    return [names[number] if 0 <= number < len(names) else None for number in numbers]


def _groups(samples: "Data", rows: slice) -> list[int | None]:
    return [None] * (rows.stop - rows.start) if samples.groups is None else [*samples.groups[rows].tolist()]


def _write(target: Path, pieces: Iterator[Piece]) -> tuple[Tensor, list[str]]:
    """Write pieces as they come; the features that are returned lie in a file without a name."""
    paths: list[str] = []
    dim = 0

    def spooled() -> Iterator[Piece]:
        nonlocal dim
        for piece in pieces:
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
