"""Features of every sample with its path, for search, maps and tables elsewhere.

A file is written as the features come, so that memory does not grow with the samples; it is there whole or not at all.
"""

import csv
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation import features, opening, seen
from unlabeled.files import atomic, printable
from unlabeled.kernels import heap
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["ENDINGS", "embed"]

_BATCH = 256
_GROUP_BYTES = 2**24
"""Bytes of the features in a row group of a parquet file, about."""


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
            and the number of its group, by the run's own `group` on the data that it was trained on, both missing
            where they are unknown. Its ending says how: .parquet has
            the columns `path`, `split`, `label`, `group` and `embedding`; .csv has the first four, then `0`, `1`
            and so on; .npz has arrays `embeddings`, `paths`, `splits`, `labels` ("" for none) and `groups` (-1
            for none); .npy has the features alone.
        device: auto, cpu or cuda.
        label: Column of the labels, which are written beside the features, as in `open_data`; None takes that of the
            run.
        text_column: Column of a table that holds the texts, as in `open_data`; None takes that of the run.
        encoding: Encoding of texts, as in `open_data`; None takes that of the run.
        group: What says which samples are not independent, as in `open_data`; None takes that of the run on the data
            that it was trained on.

    Returns:
        Features on the CPU, float32, shape (samples, dim), and the path of each sample, split after split. Where a
        file is written, the features lie in a nameless file beside it, not in memory, while they are in use.

    Raises:
        ValueError: The ending of `out` is another one, or a feature is NaN or infinite.
    """
    target = None if out is None else Path(out)
    if target is not None and target.suffix.lower() not in ENDINGS:
        raise UserError(f"out must end with {', '.join(ENDINGS)}, got {target.name}")
    where = features.pick_device(device)
    run = opened_run(run)
    encoder, reader = features.frozen(run, where)
    told = {"label": label, "text_column": text_column, "encoding": encoding, "group": group}
    told = seen.as_told(run, data) | {name: value for name, value in told.items() if value is not None}
    how = opening.options(run, encoder) | told
    opened = opening.parts(data, how, encoder)
    if target is not None:
        return _written(target, _pieces(opened, lambda batch: reader(batch, layer), where))
    read, paths = [], []
    for _, samples in opened:
        read.append(features.read(lambda batch: reader(batch, layer), samples.to(where)).cpu())
        paths += samples.paths
    return torch.cat(read), paths


class Piece(NamedTuple):
    """Some samples in a row: vectors, float32, shape (samples, dim), and what is known of each."""

    vectors: np.ndarray
    paths: list[str]
    splits: list[str]
    labels: list[str | None]
    groups: list[int | None]


class Writer(Protocol):
    """Writes pieces to a file; complete once it is closed."""

    def add(self, piece: Piece) -> None: ...

    def close(self) -> None: ...


def _pieces(
    opened: "Iterator[tuple[str, Data]]", reader: Callable[[dict[str, Tensor]], Tensor], where: torch.device
) -> Iterator[Piece]:
    """Features of all samples, a batch at a time."""
    for split, samples in opened:
        start = 0
        for batch in samples.to(where).batches(_BATCH):
            with torch.no_grad():
                vectors = reader(batch).flatten(1).float().cpu()
            if not vectors.isfinite().all():
                broken = int((~vectors.isfinite().all(1)).sum())
                raise UserError(
                    f"features must be finite, got NaN or infinity for {broken} of {len(vectors)} samples of a batch"
                )
            end = start + len(vectors)
            labels, groups = _labels(samples, start, end), _groups(samples, start, end)
            # Names of files are bytes; those that are no UTF-8 are written with backslashes.
            yield Piece(vectors.numpy(), samples.paths[start:end], [split] * len(vectors), labels, groups)
            start = end


def _labels(samples: "Data", start: int, end: int) -> list[str | None]:
    if samples.labels is None:
        return [None] * (end - start)
    names = samples.classes
    numbers = samples.labels[start:end].tolist()
    if names is None:
        return [str(number) if number != -1 else None for number in numbers]
    return [names[number] if 0 <= number < len(names) else None for number in numbers]


def _groups(samples: "Data", start: int, end: int) -> list[int | None]:
    return [None] * (end - start) if samples.groups is None else [*samples.groups[start:end].tolist()]


def _written(target: Path, pieces: Iterator[Piece]) -> tuple[Tensor, list[str]]:
    """Write pieces as they come; what is given back lies in a file without a name."""
    paths: list[str] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic(target))
        spool = stack.enter_context(tempfile.TemporaryFile(prefix=f".{target.name}.", dir=target.parent))
        writer = stack.enter_context(closing(_WRITERS[target.suffix.lower()](temporary, spool)))
        dim = 0
        for piece in pieces:
            spool.write(np.ascontiguousarray(piece.vectors).data)
            writer.add(piece._replace(paths=[printable(path) for path in piece.paths]))
            paths += piece.paths
            dim = piece.vectors.shape[1]
        spool.flush()
        writer.close()
        vectors = np.memmap(spool, np.float32, "c", shape=(len(paths), dim)) if paths and dim else None
    return torch.zeros(len(paths), dim) if vectors is None else torch.from_numpy(vectors), paths


class _Parquet:
    """Row groups of about 16 MB of features."""

    def __init__(self, path: Path, spool: IO[bytes]) -> None:
        self.path, self.file, self.pieces, self.rows = path, None, [], 0
        self.stack = ExitStack()

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.rows += len(piece.paths)
        if self.rows * piece.vectors.shape[1] * 4 >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        vectors = np.concatenate([piece.vectors for piece in self.pieces])
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        columns: dict[str, Any] = {
            "path": pa.array([path for piece in self.pieces for path in piece.paths], pa.string()),
            "split": pa.array([split for piece in self.pieces for split in piece.splits], pa.string()),
            "label": pa.array([label for piece in self.pieces for label in piece.labels], pa.string()),
            "group": pa.array([group for piece in self.pieces for group in piece.groups], pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
        table = pa.table(columns)
        self.file = self.file or self.stack.enter_context(ParquetWriter(self.path, table.schema))
        self.file.write_table(table)
        self.pieces, self.rows = [], 0

    def close(self) -> None:
        if self.pieces:
            self._flush()
        self.stack.close()


class _Csv:
    """Rows of nine significant digits, from which float32 comes back as it was."""

    def __init__(self, path: Path, spool: IO[bytes]) -> None:
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer, self.begun = csv.writer(self.file), False

    def add(self, piece: Piece) -> None:
        if not self.begun:
            numbers = map(str, range(piece.vectors.shape[1]))
            self.writer.writerow(["path", "split", "label", "group", *numbers])
            self.begun = True
        about = zip(piece.paths, piece.splits, piece.labels, piece.groups)
        for known, vector in zip(about, piece.vectors.tolist()):
            self.writer.writerow([*known, *(f"{value:.9g}" for value in vector)])

    def close(self) -> None:
        self.file.close()


class _Arrays:
    """Arrays of numpy, whose sizes are known only at the end: the features are copied from the spool."""

    def __init__(self, path: Path, spool: IO[bytes]) -> None:
        self.path, self.spool, self.dim, self.closed = path, spool, 0, False
        self.known: dict[str, list[Any]] = {"paths": [], "splits": [], "labels": [], "groups": []}

    def add(self, piece: Piece) -> None:
        self.dim = piece.vectors.shape[1]
        self.known["paths"] += piece.paths
        self.known["splits"] += piece.splits
        self.known["labels"] += ["" if label is None else label for label in piece.labels]
        self.known["groups"] += [-1 if group is None else group for group in piece.groups]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._write()

    def _write(self) -> None:
        with self.path.open("wb") as file:
            self._copy(file)

    def _copy(self, file: IO[bytes]) -> None:
        shape = (len(self.known["paths"]), self.dim)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self.spool.seek(0)
        while block := self.spool.read(_GROUP_BYTES):
            file.write(block)
        self.spool.seek(0, 2)


class _Archive(_Arrays):
    def _write(self) -> None:
        with zipfile.ZipFile(self.path, "w", allowZip64=True) as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as file:
                self._copy(file)
            for name, values in self.known.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    array = np.array(values, dtype=np.int64 if name == "groups" else np.str_)
                    np.lib.format.write_array(file, array, allow_pickle=False)


_WRITERS: dict[str, Callable[[Path, IO[bytes]], Writer]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".npz": _Archive,
    ".npy": _Arrays,
}
ENDINGS = tuple(_WRITERS)
"""Endings of the files that can be written."""
