"""Features of more samples than one file should hold: a folder of parquet files, resumed and shared by processes.

Each file is there whole or not at all, and what is there is not computed again. Process r of W writes the files r,
r + W and so on, which needs no communication: processes may start and end at any time.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np
import torch

from unlabeled.check import UserError
from unlabeled.evaluation import readouts
from unlabeled.evaluation.embedding_files import WRITERS, Piece
from unlabeled.evaluation.embeddings import BATCH, embedding_pieces, features_of
from unlabeled.evaluation.features import require_finite
from unlabeled.evaluation.model import pick_device
from unlabeled.evaluation.sources import Source
from unlabeled.files import atomic, locked, printable, sweep
from unlabeled.method import Batch
from unlabeled.options import Reading
from unlabeled.run import fingerprint
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.data.samples import Skipped
    from unlabeled.data.streaming.data import Streamed
    from unlabeled.encoders import Encoder

__all__ = ["Written", "embed_shards"]

ABOUT = "embeddings.json"
SAMPLES = 10_000
"""Samples of a file where the data has no shards of its own."""
AHEAD = 8
"""Batches before one at which its shard begins to be fetched."""
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
"""Variables in which torchrun and SLURM say which process this is, of how many, and which of its machine."""

OPENING = {"image": ("channels", "levels"), "audio": ("sample_rate",), "text": ("text_column",)}
"""Options by which streamed data is opened, by kind."""

Vectors = Callable[[Batch], torch.Tensor]
Contents = Iterator[tuple[str, Iterator[Piece], "list[Skipped]"]]
"""Names of files, what is in them, and what could not be read, which is complete when a file is."""


class Written(NamedTuple):
    """What a folder holds.

    Attributes:
        files: Parquet files that are there.
        expected: Parquet files that there will be.
        samples: Their samples.
        dim: Numbers of each sample; 0 where no file is there.
    """

    files: int
    expected: int
    samples: int
    dim: int


def embed_shards(
    run: Any,
    data: Any,
    *,
    out: str | Path,
    features: str | None = None,
    stream: bool = False,
    cache_size: str | None = None,
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
    device: str = "auto",
    **reading: Unpack[Reading],
) -> Written:
    """Compute the features of every sample, to a folder of parquet files with the columns that `embed` writes.

    The same call resumes. Processes that torchrun or SLURM started share the files.

    Args:
        run: A run, a method or an encoder.
        data: Whatever `open_data` takes; with `stream`, shards as `pretrain` streams them.
        out: Folder. It gets a file for each 10,000 samples of a split, or for each shard, where `path` is the name of
            a sample in a tar file or its number in a table, and `label` and `group` are missing. Samples of a shard
            that cannot be decoded are left out, and listed in a csv file beside.
        features: As in `embed`; with `stream` only those of the run itself.
        stream: Whether samples are decoded while features are computed, so that they need not fit on the disk; of a
            folder with several parts, that for training.
        cache_size: As in `pretrain`.
        workers: Processes that decode streamed samples; None for one per processor.
        progress: Called with a line on each file.
        device: auto, cpu or cuda.
        **reading: As in `embed`; not with `stream`.

    Returns:
        What is there now, also of other processes.

    Raises:
        ValueError: The folder holds something else, such as features of another encoder, or another process with the
            same number writes there.
        ConnectionError: A shard does not come.
    """
    folder, tell = Path(out), progress or (lambda line: None)
    if folder.suffix.lower() in WRITERS or folder.is_file():
        raise UserError(f"out must be a folder, got {folder}")
    if not stream and (cache_size is not None or workers is not None):
        raise UserError("cache_size and workers must be left out without stream")
    (rank, processes), hardware, run = _process(), _hardware(device), opened_run(run)
    if (text := readouts.named(run, features)) and stream:
        raise UserError(f"features must be the run's own with stream, as others are fitted, got {text}")
    encoder, reader = readouts.features_reader(
        run, features, data, device=device, reading=reading, progress=tell
    )
    source = Source.of(run, encoder, data, reading=reading)
    files = _shards(source, encoder, cache_size, workers, tell) if stream else _Splits(source.splits(encoder))
    _claim(folder, fingerprint(encoder.state_dict()), text or "output", files.identity)
    with locked(folder, f".process-{rank}-of-{processes}.lock"):
        numbers = range(rank, len(files.names), processes)
        _write(folder, files, numbers, partial(features_of, reader, None), hardware, tell)
    return _written(folder, files.names)


class _Splits:
    """Files of data that is opened as a whole, a few thousand samples of a split each."""

    def __init__(self, splits: "Iterator[tuple[str, Data]]") -> None:
        self.identity: dict[str, Any] = {}
        self.parts: dict[str, tuple[str, Data, range]] = {}
        for split, samples in splits:
            self.identity[split] = _identity(samples)
            for start in range(0, len(samples), SAMPLES):
                name = f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', split)}-{start // SAMPLES:05}"
                self.parts[name] = split, samples, range(start, len(samples))[:SAMPLES]
        self.names = [*self.parts]

    def contents(self, names: list[str], vectors: Vectors, device: torch.device) -> Contents:
        for name in names:
            split, samples, rows = self.parts[name]
            part = samples if len(rows) == len(samples) else samples.subset(torch.tensor(rows))
            yield name, embedding_pieces(iter([(split, part)]), vectors, device), []


class _Shards:
    """Files of streamed shards, one each."""

    def __init__(self, data: "Streamed") -> None:
        self.data = data
        self.shards = {f"shard-{shard:05}": int(shard) for shard in np.flatnonzero(data.decoder.counts)}
        self.names, self.identity = [*self.shards], data.identity

    def contents(self, names: list[str], vectors: Vectors, device: torch.device) -> Contents:
        data = self.data.to(device)
        data.announce((rows for name in names for rows in self._batches(name)), AHEAD)
        try:
            for name in names:
                data.broken = []
                yield name, self._pieces(data, name, vectors), data.broken
        finally:
            data.announce(iter(()))  # which ends the workers

    def _batches(self, name: str) -> Iterator[torch.Tensor]:
        decoder, shard = self.data.decoder, self.shards[name]
        stop = int(decoder.ends[shard])
        yield from torch.arange(stop - int(decoder.counts[shard]), stop).split(BATCH)

    def _pieces(self, data: "Streamed", name: str, vectors: Vectors) -> Iterator[Piece]:
        names, start = data.decoder.source.names(self.shards[name]), 0
        for rows in self._batches(name):
            batch = data.batch(rows)
            readable = ~batch.pop("replaced", torch.zeros(len(rows), dtype=torch.bool)).cpu()
            with torch.no_grad():
                features = vectors(batch).flatten(1).float().cpu()
            require_finite(features, "samples of a batch")
            paths = [printable(names[start + row]) for row in readable.nonzero()[:, 0].tolist()]
            start = start + len(rows)
            unknown: list[Any] = [None] * len(paths)
            yield Piece(features[readable].numpy(), paths, ["all"] * len(paths), unknown, unknown)


def _shards(
    source: Source,
    encoder: "Encoder",
    cache_size: str | None,
    workers: int | None,
    tell: Callable[[str], None],
) -> _Shards:
    from unlabeled.data import STORE_SIZE
    from unlabeled.data.streaming.data import default_workers
    from unlabeled.data.streaming.opening import KINDS, open_streamed

    options, kind = source.options, source.options["kind"]
    if not isinstance(source.data, str | os.PathLike):
        raise UserError(f"data must be a path or an address to be streamed, got {source.name}")
    if kind not in KINDS:
        raise UserError(
            f"stream must be left out for data of kind {kind}, as it is of {' and '.join(KINDS)} only"
        )
    if source.reading:
        raise UserError(f"{next(iter(source.reading))} must be left out with stream")
    reading = {name: options.get(name) for name in OPENING[kind]}
    if kind == "image":
        reading["side"] = options.get("store_size") or STORE_SIZE
    data = open_streamed(
        os.fspath(source.data),
        kind,
        workers=default_workers() if workers is None else workers,
        cache_size=cache_size,
        max_broken=options.get("max_broken", 0.1),
        **reading,
    )
    if data.other_splits:
        tell(f"only the part {data.split} of {data.name}, not {', '.join(data.other_splits)}")
    return _Shards(encoder.evaluation_view(data))  # type: ignore[arg-type]


def _process() -> tuple[int, int]:
    """Which process this is, and of how many."""
    for names in NUMBERS:
        if names[0] in os.environ and names[1] in os.environ:
            return int(os.environ[names[0]]), int(os.environ[names[1]])
    return 0, 1


def _hardware(device: str) -> torch.device:
    """The device of a name; of several GPUs, that of this process."""
    hardware = pick_device(device)
    if hardware.type == "cuda":
        number = next((int(os.environ[names[2]]) for names in NUMBERS if names[2] in os.environ), 0)
        torch.cuda.set_device(number % torch.cuda.device_count())
    return hardware


def _identity(samples: "Data") -> str:
    """What changes with the samples of a split: their number, and what they are called."""
    digest = sha256("\0".join(samples.paths).encode(errors="surrogateescape")).hexdigest()
    return f"{len(samples)} samples, {digest[:16]}"


def _claim(folder: Path, encoder: str, features: str, data: dict[str, Any]) -> None:
    """Note what a folder holds, or make sure that it holds that.

    Raises:
        ValueError: It holds something else.
    """
    file, about = folder / ABOUT, {"encoder": encoder, "features": features, "data": data}
    if not file.is_file():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"out must be a new or empty folder, or one that embed wrote, got {folder}")
        with atomic(file) as path:
            path.write_text(json.dumps(about, indent=1), encoding="utf-8")
    earlier = json.loads(file.read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(about)).items():
        if earlier.get(name) != value:
            raise UserError(
                f"out must be a folder with the same {name}, got {folder}, which has {earlier.get(name)} instead of "
                f"{value}"
            )


def _write(
    folder: Path,
    files: _Splits | _Shards,
    numbers: range,
    vectors: Vectors,
    device: torch.device,
    tell: Callable[[str], None],
) -> None:
    """Write those of some files that are not there, and what they lack to others beside them."""
    names = [files.names[number] for number in numbers]
    todo = [name for name in names if not (folder / f"{name}.parquet").exists()]
    for number, (name, pieces, broken) in enumerate(files.contents(todo, vectors, device), 1):
        target = folder / f"{name}.parquet"
        sweep(target)
        with atomic(target) as path:
            WRITERS[".parquet"](path, pieces, io.BytesIO())
            _list(folder / f"{name}.skipped.csv", broken)
        tell(f"{target.name}: {number:,} of {len(todo):,} files")


def _list(file: Path, broken: "list[Skipped]") -> None:
    """List what could not be read, if there is anything."""
    if broken:
        with atomic(file) as path, path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(
                [("path", "reason"), *((printable(one.path), one.reason) for one in broken)]
            )


def _written(folder: Path, names: list[str]) -> Written:
    from pyarrow.parquet import ParquetFile

    files = [file for name in names if (file := folder / f"{name}.parquet").exists()]
    opened = [ParquetFile(file) for file in files]
    dim = opened[0].schema_arrow.field("embedding").type.list_size if opened else 0
    return Written(len(files), len(names), sum(file.metadata.num_rows for file in opened), dim)
