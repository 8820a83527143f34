"""Files of features: parquet, csv, npz and npy, written piece by piece."""

import csv
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

__all__ = ["WRITERS", "Piece", "Writer"]

GROUP_BYTES = 2**24
"""Bytes of the features in a row group of a parquet file, about."""


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


class _Parquet:
    """Row groups of about 16 MB of features."""

    def __init__(self, path: Path, spool: IO[bytes]) -> None:
        self.path, self.file, self.pieces, self.rows = path, None, [], 0
        self.stack = ExitStack()

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.rows += len(piece.paths)
        if self.rows * piece.vectors.shape[1] * 4 >= GROUP_BYTES:
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
        while block := self.spool.read(GROUP_BYTES):
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


WRITERS: dict[str, Callable[[Path, IO[bytes]], Writer]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".npz": _Archive,
    ".npy": _Arrays,
}
"""Writers by the ending of a file, from its path and a file that holds all features so far."""
