"""Files of features: parquet, csv, npz and npy, written piece by piece."""

import csv
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

__all__ = ["WRITERS", "Piece"]

GROUP_BYTES = 2**24
"""Bytes of the features in a row group of a parquet file, about."""


class Piece(NamedTuple):
    """Consecutive samples: vectors, float32, shape (samples, dim), and what is known of each.

    Parquet also holds images, as PNG, and points in a plane, float32, shape (samples, 2); None where there are none.
    """

    vectors: np.ndarray
    paths: list[str]
    splits: list[str]
    labels: list[str | None]
    groups: list[int | None]
    images: list[bytes] | None = None
    points: np.ndarray | None = None


def _write_parquet(path: Path, pieces: Iterator[Piece], spool: IO[bytes]) -> None:
    """Row groups of about `GROUP_BYTES` of features."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ExitStack() as stack:
        writer, group = None, []

        def flush() -> None:
            nonlocal writer
            writer = writer or stack.enter_context(ParquetWriter(path, group[0].schema))
            writer.write_table(pa.concat_tables(group))
            group.clear()

        for piece in pieces:
            group.append(_table(piece))
            if sum(table.nbytes for table in group) >= GROUP_BYTES:
                flush()
        if group:
            flush()


def _table(piece: Piece) -> Any:
    import pyarrow as pa

    vectors = pa.array(piece.vectors.reshape(-1), type=pa.float32())
    columns = {
        "path": pa.array(piece.paths, pa.string()),
        "split": pa.array(piece.splits, pa.string()),
        "label": pa.array(piece.labels, pa.string()),
        "group": pa.array(piece.groups, pa.int64()),
        "embedding": pa.FixedSizeListArray.from_arrays(vectors, piece.vectors.shape[1]),
    }
    if piece.points is not None:
        columns |= {name: pa.array(values) for name, values in zip("xy", piece.points.T.copy(), strict=True)}
    if piece.images is not None:  # as Hugging Face datasets keep images, which viewers of tables know
        parts = pa.array(piece.images, pa.binary()), columns["path"]
        columns["image"] = pa.StructArray.from_arrays(parts, ["bytes", "path"])
    return pa.table(columns)


def _write_csv(path: Path, pieces: Iterator[Piece], spool: IO[bytes]) -> None:
    """Nine significant digits, from which float32 comes back as it was."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, piece in enumerate(pieces):
            if not number:
                writer.writerow(["path", "split", "label", "group", *range(piece.vectors.shape[1])])
            for vector, *columns in zip(piece.vectors.tolist(), *piece[1:5]):
                writer.writerow([*columns, *(f"{value:.9g}" for value in vector)])


def _write_npy(path: Path, pieces: Iterator[Piece], spool: IO[bytes]) -> None:
    rows = dim = 0
    for piece in pieces:
        rows, dim = rows + len(piece.paths), piece.vectors.shape[1]
    with path.open("wb") as file:
        _copy(spool, file, rows, dim)


def _write_npz(path: Path, pieces: Iterator[Piece], spool: IO[bytes]) -> None:
    columns: dict[str, list[Any]] = {"paths": [], "splits": [], "labels": [], "groups": []}
    dim = 0
    for piece in pieces:
        dim = piece.vectors.shape[1]
        columns["paths"] += piece.paths
        columns["splits"] += piece.splits
        columns["labels"] += ["" if label is None else label for label in piece.labels]
        columns["groups"] += [-1 if group is None else group for group in piece.groups]
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _copy(spool, file, len(columns["paths"]), dim)
        for name, values in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                array = np.array(values, dtype=np.int64 if name == "groups" else np.str_)
                np.lib.format.write_array(file, array, allow_pickle=False)


def _copy(spool: IO[bytes], file: IO[bytes], rows: int, dim: int) -> None:
    """Write all features as an array, whose size is known only at the end."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)
    spool.seek(0)
    while block := spool.read(GROUP_BYTES):
        file.write(block)
    spool.seek(0, 2)


WRITERS: dict[str, Callable[[Path, Iterator[Piece], IO[bytes]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".npz": _write_npz,
    ".npy": _write_npy,
}
"""Writers by the ending of a file, from its path, all pieces, and a file that holds the features of pieces so far."""
