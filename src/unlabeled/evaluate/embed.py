"""Features of every sample with its path, for search, maps and tables elsewhere."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled.evaluate import features, opening
from unlabeled.parts import heap

__all__ = ["embed", "write"]


@heap.kept()
def embed(
    run: Any, data: Any, *, layer: str | None = None, out: str | Path | None = None, device: str = "auto"
) -> tuple[Tensor, list[str]]:
    """Compute the features of every sample of every split; no label is needed.

    Args:
        run: A run, a method or an encoder.
        data: Whatever `open_data` takes.
        layer: Name of a map to read instead of the encoder's output.
        out: Parquet file to write, with the columns `path`, `split` ("all" where there are none) and
            `embedding`.
        device: auto, cpu or cuda.

    Returns:
        Features on the CPU, float32, shape (samples, dim), and the path of each sample, split after split.
    """
    where = features.pick_device(device)
    encoder, reader = features.frozen(run, where)
    read, paths, splits = [], [], []
    for split, samples in opening.parts(data, opening.options(run, encoder), encoder):
        read.append(features.read(lambda batch: reader(batch, layer), samples.to(where)).cpu())
        paths += samples.paths
        splits += [split] * len(samples)
    vectors = torch.cat(read)
    if out is not None:
        write(Path(out), vectors, paths, splits)
    return vectors, paths


def write(path: Path, vectors: Tensor, names: list[str], splits: list[str]) -> None:
    """Write paths, splits and vectors as parquet, whole or not at all.

    Args:
        path: The file.
        vectors: Float32, shape (samples, dim).
        names: Path of each sample.
        splits: Split of each sample.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from unlabeled.files import atomic, printable

    # Names of files are bytes; those that are no UTF-8 are written with backslashes.
    readable = [printable(name) for name in names]
    flat = pa.array(vectors.flatten().numpy(), type=pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with atomic(path) as temporary:
        texts = {"path": pa.array(readable, pa.string()), "split": pa.array(splits, pa.string())}
        parquet.write_table(pa.table({**texts, "embedding": column}), temporary)
