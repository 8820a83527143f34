"""Features of every sample with its path, for search, maps and tables elsewhere."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled.evaluate import features

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["embed", "write"]


def embed(
    run: Any, data: Any, *, layer: str | None = None, out: str | Path | None = None, device: str = "auto"
) -> "tuple[Tensor, list[str]]":
    """Compute the features of every sample; no label is needed.

    Args:
        run: A run, a method or an encoder.
        data: Whatever `open_data` takes.
        layer: Name of a map to read instead of the encoder's output.
        out: Parquet file to write, with the columns `path` and `embedding`.
        device: auto, cpu or cuda.

    Returns:
        Features on the CPU, float32, shape (samples, dim), and the path of each sample.
    """
    from unlabeled.data import STORE_SIZE, open_data

    where = features.pick_device(device)
    encoder, reader = features.frozen(run, where)
    store_size = max(STORE_SIZE, encoder.image_size)
    samples = open_data(data, channels=encoder.in_channels, store_size=store_size).to(where)
    vectors = features.read(lambda batch: reader(batch, layer), samples).cpu()
    if out is not None:
        write(Path(out), vectors, samples.paths)
    return vectors, samples.paths


def write(path: Path, vectors: "Tensor", names: list[str]) -> None:
    """Write paths and vectors as parquet, whole or not at all.

    Args:
        path: The file.
        vectors: Float32, shape (samples, dim).
        names: Path of each sample.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from unlabeled.files import atomic

    # Names of files are bytes; those that are no UTF-8 are written with backslashes.
    readable = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    flat = pa.array(vectors.flatten().numpy(), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with atomic(path) as temporary:
        parquet.write_table(
            pa.table({"path": pa.array(readable, pa.string()), "embedding": column}), temporary
        )
