"""From a run and data to a folder with a page, its data and its pictures; nothing is loaded from anywhere else."""

import base64
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.audio.data import Sounds
from unlabeled.data.text.data import Texts
from unlabeled.evaluation.embedded import Embedded, Part, embedded, model
from unlabeled.evaluation.embeddings import write_file
from unlabeled.exploring import sprites
from unlabeled.exploring.layout import hilbert, layout
from unlabeled.exploring.vectors import Quantized, quantized
from unlabeled.files import atomic, printable
from unlabeled.options import Reading
from unlabeled.progress import telling
from unlabeled.reporting import page, sounds

__all__ = ["Exploration", "explore"]

MOST = 100_000
"""Samples that a page holds."""
LARGEST = 200 * 10**6
"""Bytes that a folder should have at most."""
LETTERS = 240
"""Characters of a text that a page holds."""
SOUND_BYTES, BYTES_PER_SECOND = 100 * 10**6, 8_000
"""Bytes of all sounds of a page, and about what a second of one takes."""
SHORTEST = 1.0
"""Seconds of a sound below which a page links to the files instead."""
POINT_LEVELS = 2**16 - 1


@dataclass(frozen=True)
class Exploration:
    """A page that was written.

    Attributes:
        path: The page.
        samples: Samples that it holds.
        dims: Numbers of a byte that stand for each.
        recall: Fraction of the 10 nearest samples by the features that the page finds among its 10 nearest.
        map: How the map was made.
        size: Bytes of its folder.
        notes: What a reader must know, a sentence each.
    """

    path: Path
    samples: int
    dims: int
    recall: float
    map: str
    size: int
    notes: list[str]

    def summary(self) -> list[str]:
        """What was written, a sentence each."""
        return [
            f"{self.samples:,} samples, {self.size / 10**6:,.1f} MB",
            f"vectors: {self.dims} bytes each; recall@10 against exact cosines of all features: {self.recall:.3f}",
            f"map: {self.map}",
            *self.notes,
        ]


def explore(
    run: Any,
    data: Any,
    *,
    out: str | Path,
    features: str | None = None,
    parquet: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
    **reading: Unpack[Reading],
) -> Exploration:
    """Write a page that searches samples by similarity, shows a map of them, and collects what is to be labelled.

    The page works offline, from the folder, in any browser. It finds the nearest samples among up to 100,000 within a
    tenth of a second, and saves lists of samples with labels as CSV, which `evaluate` and `pretrain` read as data.

    Args:
        run: A run or its folder, a method or an encoder; weights as timm:NAME, torchvision:NAME, hf:OWNER/NAME; or
            "auto", which trains what `pretrain auto` chooses on the data first, in the folder OUT-run.
        data: What `open_data` takes; all splits are shown. Of more than 100,000 samples a random part is.
        out: Folder of the page.
        features: As in `evaluate`.
        parquet: File of the same features and map, with small images, as `embed` writes it for embedding viewers.
            [default: none]
        seed: Seed of all random choices.
        device: auto, cpu or cuda.
        progress: Called with a line on what is done.
        **reading: label, text_column, encoding, group and fold, as in `open_data`; None takes those of the run.

    Raises:
        ValueError: There is no such data or run, or the folder holds something else.
    """
    folder, say = Path(out), progress or (lambda line: None)
    _verify(folder, parquet)
    words = {"reading": reading, "device": device, "progress": progress}
    with telling(progress):
        encoder = model(run, data, out=run_beside(folder), seed=seed, **words)
        opened = embedded(encoder, data, features=features, **words)
        notes = []
        if len(opened.features) > MOST:
            notes.append(f"{MOST:,} of {len(opened.features):,} samples, chosen at random, are on the page")
            opened = _some(opened, seed)
        say(f"laying out {len(opened.features):,} samples")
        points, name = layout(opened.features, seed=seed)
        vectors = quantized(opened.features, seed=seed)
        order = hilbert(points).argsort(stable=True)
        content = _content(opened, points, vectors, order, name)
        content |= _media(opened, encoder, order, folder, notes)
        _write(folder, content, vectors.values[order])
        if parquet is not None:
            _parquet(Path(parquet), opened, points)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LARGEST:
        notes.append(f"the folder has more than {LARGEST // 10**6} MB")
    dims = vectors.values.shape[1]
    return Exploration(folder / "index.html", len(order), dims, vectors.recall, name, size, notes)


def run_beside(folder: Path) -> Path:
    """Folder of the run that "auto" trains for a page, beside that of the page."""
    return folder.with_name(f"{folder.name}-run")


def _verify(folder: Path, parquet: str | Path | None) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out must be a folder, got the file {folder}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "explore.js").is_file():
        raise UserError(f"out must be a new or empty folder, or that of such a page, got {folder}")
    if parquet is not None and Path(parquet).suffix.lower() != ".parquet":
        raise UserError(f"parquet must end with .parquet, got {parquet}")


def _some(opened: Embedded, seed: int) -> Embedded:
    """A random part of the samples that a page can hold."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(opened.features), generator=generator)[:MOST].msort()
    parts, start = [], 0
    for part in opened.parts:
        own = rows[(rows >= start) & (rows < start + len(part.data))] - start
        parts.append(Part(part.split, part.data.subset(own), part.view.subset(own)))
        start += len(part.data)
    return replace(opened, parts=parts, features=opened.features[rows])


def _content(
    opened: Embedded, points: Tensor, vectors: Quantized, order: Tensor, name: str
) -> dict[str, Any]:
    """What the page knows of the samples, of JSON types, in its order."""
    rows = order.tolist()
    paths, labels, splits = opened.paths, opened.labels, opened.splits
    classes, parts = opened.classes, list(dict.fromkeys(splits))
    number = {label: place for place, label in enumerate(classes)}
    in_files = all(map(os.path.isfile, paths))
    exported = [os.path.abspath(path) for path in paths] if in_files else paths
    start = os.path.commonpath([os.path.dirname(path) for path in exported]) + os.sep if in_files else ""
    content: dict[str, Any] = {
        "title": printable(os.path.basename(opened.name.rstrip(os.sep)) or opened.name),
        "kind": opened.kind,
        "unit": opened.parts[0].data.unit,
        "map": name,
        "recall": round(vectors.recall, 3),
        "dims": vectors.values.shape[1],
        "root": printable(start),
        "files": in_files,
        "paths": [printable(exported[row].removeprefix(start)) for row in rows],
        "classes": classes,
        "labels": [number.get(labels[row] or "", -1) for row in rows],
        "splits": parts,
        "split": [parts.index(splits[row]) for row in rows] if len(parts) > 1 else None,
        "points": _packed((points[order] * POINT_LEVELS).round().to(torch.int32).to(torch.uint16)),
    }
    if opened.kind == "text":
        texts = [text for part in opened.parts if isinstance(part.data, Texts) for text in part.data.texts]
        content["texts"] = [texts[row][:LETTERS] for row in rows]
    digest = sha256("\0".join(content["paths"]).encode("utf-8", "replace"))
    return content | {"key": digest.hexdigest()[:16]}


def _packed(values: Tensor) -> str:
    """Numbers as base64, little-endian."""
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()


def _media(opened: Embedded, encoder: Any, order: Tensor, folder: Path, notes: list[str]) -> dict[str, Any]:
    """Write sheets of pictures and files of sounds, and say where they are."""
    if opened.kind == "text":
        return {}
    places = [(part.data, row) for part in opened.parts for row in range(len(part.data))]
    samples = [places[row] for row in order.tolist()]
    sizes = [getattr(part.data, "sizes", None) for part in opened.parts]
    largest = max((int(own.max()) for own in sizes if own is not None and len(own)), default=sprites.LARGE)
    side = sprites.side_for(len(samples), largest)
    pictures = sprites.thumbnails(samples, len(samples), getattr(encoder, "encoder", encoder))
    count = sprites.write_sheets(pictures, folder / "sheets", side)
    _remove_further(folder / "sheets", count)
    media: dict[str, Any] = {"side": side, "columns": sprites.COLUMNS}
    if opened.kind == "audio":
        media |= {"sounds": _sounds(samples, folder / "sounds", notes)}
    return media


def _remove_further(folder: Path, count: int) -> None:
    """Remove sheets of an earlier page that had more."""
    for file in folder.glob("*.webp"):
        if file.stem.isdigit() and int(file.stem) >= count:
            file.unlink()


def _sounds(samples: Sequence[tuple[Data, int]], folder: Path, notes: list[str]) -> str:
    """Write the beginnings of sounds; returns "copies", "files" where the page plays the files, or ""."""
    import soundfile

    seconds = min(sounds.LONGEST, SOUND_BYTES / (BYTES_PER_SECOND * len(samples)))
    if seconds < SHORTEST:
        if all(os.path.isfile(data.paths[row]) for data, row in samples):
            notes.append("sounds are played from their files, as copies would take too much space")
            return "files"
        notes.append(
            "sounds cannot be played, as they are too many for copies and have no files of their own"
        )
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    if seconds < sounds.LONGEST:
        notes.append(f"the first {seconds:.1f} seconds of each sound can be played")
    for number, (data, row) in enumerate(samples):
        assert isinstance(data, Sounds)
        batch = data.batch(torch.tensor([row]))
        length = min(int(batch["length"][0]), round(seconds * data.sample_rate))
        samples_of = batch["waveform"][0, : max(length, 1)].cpu().numpy()
        soundfile.write(
            folder / f"{number}.ogg", samples_of, data.sample_rate, format="OGG", subtype="VORBIS"
        )
    return "copies"


def _write(folder: Path, content: dict[str, Any], values: Tensor) -> None:
    """Write the data as scripts, since pages from a disk may not read other files, then the page."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    scripts = {
        "explore.js": (files("unlabeled.reporting") / "templates" / "explore.js").read_text(encoding="utf-8"),
        "samples.js": f"explore.samples({text})\n",
        "vectors.js": f'explore.vectors("{_packed(values)}")\n',
    }
    for name, script in scripts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(script, encoding="utf-8")
    page.write(folder / "index.html", "explore.html", title=content["title"])


def _parquet(target: Path, opened: Embedded, points: Tensor) -> None:
    splits = [(part.split, part.view) for part in opened.parts]
    write_file(target, splits, opened.features, points, thumbnails=opened.kind == "image")
