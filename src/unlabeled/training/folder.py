"""The folder of a run, as a training finds, claims and describes it."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unlabeled import hub
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.streaming.data import Streamed
from unlabeled.files import atomic, locked, new_folder, numbered
from unlabeled.run import (
    CHECKPOINT,
    CONFIG,
    LOG,
    SAMPLES,
    Run,
    read_config,
    read_digests,
    read_position,
    snapshot,
    write_samples,
    write_skipped,
)

__all__ = ["Claim", "claimed", "latest", "refuse_other_data", "write", "write_config"]


class Claim(NamedTuple):
    """A folder that no other run can take meanwhile.

    Attributes:
        path: The folder.
        note: One line about what is there, or beside it; may be empty.
        resumes: Whether it holds a run that is resumed.
    """

    path: Path
    note: str = ""
    resumes: bool = False


def latest(out: str | Path | None, method: str, data: str) -> Claim:
    """Folder of the run that is resumed: the one given, or the newest of `runs/METHOD-DATA`.

    Raises:
        ValueError: It has a checkpoint, but no run.toml.
    """
    runs = [Path(out)] if out else _runs(method, data)
    if not (runs[-1] / CHECKPOINT).is_file():
        return Claim(runs[-1], f"{runs[-1]} holds nothing to resume yet: a new run starts")
    if not (runs[-1] / CONFIG).is_file():
        raise UserError(
            f"out must be a folder that pretrain wrote to resume it, got {runs[-1]}, which has no {CONFIG}"
        )
    note = f"resuming {runs[-1]}, the newest of {len(runs)} runs; --out resumes another"
    return Claim(runs[-1], note if len(runs) > 1 else "", resumes=True)


@contextmanager
def claimed(out: str | Path | None, method: str, data: str, resume: bool) -> Iterator[Claim]:
    """Claim the folder of a run: the one given, or the next free `runs/METHOD-DATA`.

    Where the run is refused before it has saved a step or logged anything, the folders made here are removed.

    Raises:
        ValueError: The folder holds a run already, or another process writes to it.
        OSError: The folder cannot be written to.
    """
    stem = _stem(method, data) if out is None else Path(out)
    missing = [folder for folder in stem.parents if not folder.exists()]
    claim = latest(out, method, data) if resume else Claim(new_folder(stem) if out is None else stem)
    is_new = not claim.path.exists() or (out is None and not resume)
    try:
        with locked(claim.path):
            if not resume and _trained(claim.path):
                raise UserError(
                    f"out must be a new folder, got {claim.path}, which holds a run; --resume continues it"
                )
            try:
                yield claim
            except UserError:
                if is_new and not _trained(claim.path) and not (claim.path / LOG).exists():
                    shutil.rmtree(claim.path, ignore_errors=True)
                raise
    except UserError:
        for folder in missing:
            with suppress(OSError):  # others may have put something into it meanwhile
                folder.rmdir()
        raise


def _trained(folder: Path) -> bool:
    """Whether a folder holds a run that has taken a step: before that there is nothing to lose."""
    checkpoint = folder / CHECKPOINT
    return checkpoint.exists() and read_position(checkpoint)["step"] > 0


def _runs(method: str, data: str) -> list[Path]:
    stem = _stem(method, data)
    return [stem, *takewhile(Path.exists, islice(numbered(stem), 1, None))]


def _stem(method: str, data: str) -> Path:
    word = re.sub(r"[^\w.-]+", "-", Path(data).name) or "data"
    return Path("runs") / f"{method.lower()}-{word}"


def write(folder: Path, config: dict[str, Any], data: Data, train: Data, samples: Data) -> None:
    """Write what is known before the first step: run.toml, the samples and the files that were not read.

    Args:
        folder: Folder of the run.
        config: Content of run.toml.
        data: The data as it was opened.
        train: The part of it that is trained on.
        samples: The same part as training reads it.
    """
    write_config(folder, config)
    write_skipped(folder, list(dict.fromkeys([*data.skipped, *samples.skipped])))
    named = [config["settings"].get("weights"), *config["options"].values()]
    if isinstance(train, Streamed):
        (folder / SAMPLES).unlink(
            missing_ok=True
        )  # of an earlier run: the content of all would have to be read
    else:
        write_samples(
            folder,
            train,
            [
                hub.download(value) if hub.is_address(value) else value
                for value in named
                if isinstance(value, str) and (hub.is_address(value) or Path(value).exists())
            ],
        )
    (folder / LOG).unlink(missing_ok=True)
    for step in Run(folder).snapshots:
        snapshot(folder, step).unlink()


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write run.toml."""
    import tomli_w

    with atomic(folder / CONFIG) as path:
        path.write_text(tomli_w.dumps(config), encoding="utf-8")


def refuse_other_data(folder: Path, data: Data, train: Data) -> None:
    """Refuse to resume a run with other data, or with the same in another order.

    Args:
        folder: Folder of the run.
        data: The data as it was opened now.
        train: The part of it that is trained on.

    Raises:
        ValueError: The size, the shape or the content of a sample is another.
    """
    stored = read_config(folder / CONFIG, ("data",))["data"]
    for name, value in {"samples": len(data), **data.shape, **data.identity}.items():
        if (before := stored.get(name, value)) != value:
            raise UserError(f"{name} of the data must be {before} to resume {folder}, got {value}")
    if "content" in stored:  # written by versions that compared a few samples
        part, rows = data, _changed(data, stored["content"])
        count = f"{len(rows)} of {len(stored['content'])} samples looked at"
    elif (before := read_digests(folder)) is not None:
        part, before = train, before[: len(train)]
        changed = train.digests()[: len(before)] != before
        rows = [*changed.nonzero().flatten().tolist(), *range(len(before), len(train))]
        count = f"{len(rows):,} of {len(train):,} samples"
    else:
        return
    if rows:
        raise UserError(
            f"data must be what {folder} was trained on to resume it, got {data.name}, where {count} have different "
            f"content, such as {part.paths[rows[0]]}"
        )


def _changed(data: Data, content: dict[str, str]) -> list[int]:
    """Rows whose content is another than that written down, by the row."""
    changed = []
    with torch.random.fork_rng(devices=[]):
        for row in map(int, content):
            torch.manual_seed(row)
            digest = hashlib.blake2b(digest_size=6)
            for name, value in sorted(data.batch(torch.tensor([row])).items()):
                if name != "index":
                    flat = value.detach().cpu().contiguous().flatten()
                    digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
            if digest.hexdigest() != content[str(row)]:
                changed.append(row)
    return changed
