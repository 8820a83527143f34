"""What was taken from a pool, written so that every command reads it as data, and tables of what was not.

Images in files become a table of their paths, texts a file of JSON lines, and other files a folder of links; samples
inside of archives and tables, which have no files of their own, become a parquet file that holds them.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled.check import UserError
from unlabeled.curating.curation import Curation
from unlabeled.data import Images
from unlabeled.data.audio.data import Sounds
from unlabeled.data.text.data import Texts
from unlabeled.files import RUN_FILES, atomic, refuse_input, require_own_folder

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["place", "verify", "write_subset"]

ENDINGS = {
    "image": (".csv", ".txt", ".parquet"),
    "text": (".jsonl", ".csv", ".parquet"),
    "audio": (".parquet",),
    "video": (),
}
"""Endings of files that a part of data of a kind can be written to; all may be a folder of links."""
NAME = "subset"
SETTINGS = "curation.json"
ROWS = 1024
"""Samples that are encoded at a time."""


def place(out: str | Path) -> tuple[Path, str]:
    """The folder that is written to, and what names in it begin with: of a file its own name without ending."""
    out = Path(out)
    if not out.suffix:
        return out, ""
    return out.parent, f"{out.stem}-"


def verify(out: str | Path, kind: str) -> None:
    """Refuse a file whose ending is of no format for data of a kind, or a folder of others, before all computation.

    Raises:
        ValueError: It is one.
    """
    allowed = ENDINGS.get(kind, ())
    if Path(out).suffix and Path(out).suffix.lower() not in allowed:
        forms = ", ".join([*allowed, "nothing for a folder"])
        raise UserError(f"out must end with {forms} for data of kind {kind}, got {Path(out).name}")
    if not Path(out).suffix:
        require_own_folder(Path(out), (SETTINGS, f"run/{RUN_FILES[0]}"), "one that curate wrote")


def write_subset(curation: Curation, out: str | Path) -> dict[str, Path]:
    """Write the samples taken, tables of the others and of outliers, and what they were made with.

    Args:
        curation: What `curate` returns.
        out: A folder, or a file whose ending sets the format of the samples taken: .csv or .txt, a list of images with
            or without their classes; .jsonl, texts; .parquet, contents.

    Returns:
        Paths by `subset`, `omitted`, `outliers` and `settings`; `subset` is data for every command.

    Raises:
        ValueError: Samples of this kind cannot be written so, the file is one of the data, or the folder has a subset.
    """
    folder, begin = place(out)
    part = curation.subset
    verify(out, part.kind)
    ending = Path(out).suffix.lower() or _usual(part)
    target = Path(out) if Path(out).suffix else folder / f"{NAME}{ending}"
    refuse_input(target, curation.name, *curation.data.paths)
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[ending](part, target)
    paths = {"subset": target}
    labels = curation.data.class_names()
    for name, heading, rows in (
        ("omitted", ["path", "label", "reason", "cluster"], _omitted(curation, labels)),
        ("outliers", ["path", "label", "distance", "taken"], _outliers(curation, labels)),
    ):
        paths[name] = folder / f"{begin}{name}.csv"
        _write_table(paths[name], [heading, *rows])
    paths["settings"] = folder / f"{begin}{SETTINGS}"
    record = {"data": curation.name, **curation.settings, "summary": curation.summary()}
    with atomic(paths["settings"]) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8", errors="backslashreplace")
    return paths


def _usual(part: "Data") -> str:
    """The ending for samples of a kind; none for links to files."""
    if part.kind == "text":
        return ".jsonl"
    if _are_files(part):
        return ".csv" if part.kind == "image" else ""
    if ".parquet" not in ENDINGS[part.kind]:
        raise UserError(f"{part.unit} must be files of their own to be written, got {part.paths[0]}")
    return ".parquet"


def _are_files(part: "Data") -> bool:
    """Whether each sample is a file of its own."""
    return len({*part.paths}) == len(part) and all(map(os.path.isfile, part.paths))


def _require_files(part: "Data", target: Path) -> None:
    if not _are_files(part):
        first = next((path for path in part.paths if not os.path.isfile(path)), part.paths[0])
        raise UserError(
            "out must end with .parquet or .jsonl where samples are not files of their own, "
            f"got {target.name} and {first}"
        )


def _omitted(curation: Curation, labels: Sequence[str | None]) -> Iterable[list[Any]]:
    finest = curation.levels[0].tolist()
    for row, reason in curation.reasons.items():
        cluster = finest[row] if finest[row] >= 0 else ""
        yield [curation.data.paths[row], labels[row] or "", reason, cluster]


def _outliers(curation: Curation, labels: Sequence[str | None]) -> Iterable[list[Any]]:
    selection = curation.taken.tolist()
    for row in curation.outliers.tolist():
        distance = f"{float(curation.isolation[row]):.4f}"
        yield [curation.data.paths[row], labels[row] or "", distance, "yes" if selection[row] else "no"]


def _write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        csv.writer(file).writerows(rows)


def _relative(part: "Data", folder: Path) -> list[str]:
    """Paths of files from a folder, so that a list is read from any working directory."""
    return [os.path.relpath(os.path.abspath(path), os.path.abspath(folder)) for path in part.paths]


def _write_list(part: "Data", target: Path) -> None:
    """Paths, one a line; their folders are still classes."""
    _require_files(part, target)
    with atomic(target) as temporary:
        text = "".join(f"{path}\n" for path in _relative(part, target.parent))
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _write_csv(part: "Data", target: Path) -> None:
    """Paths with classes and groups as far as they are known; of texts the texts themselves."""
    if isinstance(part, Texts):
        samples, heading = part.texts, "text"
    else:
        _require_files(part, target)
        samples, heading = _relative(part, target.parent), "path"
    if part.labels is None:  # a single further column would be taken for classes
        return _write_table(target, [[heading], *([sample] for sample in samples)])
    columns: dict[str, Sequence[Any]] = {
        heading: samples,
        "label": ["" if label is None else label for label in part.class_names()],
    }
    if part.groups is not None:
        columns["group"] = part.groups.tolist()
    _write_table(target, [[*columns], *zip(*columns.values(), strict=True)])


def _write_json_lines(part: "Data", target: Path) -> None:
    assert isinstance(part, Texts)
    with atomic(target) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for text, label in zip(part.texts, part.class_names(), strict=True):
            record = {"text": text} | ({} if part.labels is None else {"label": label})
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_parquet(part: "Data", target: Path) -> None:
    """Contents: PNG of images as they were decoded, FLAC of sounds, texts."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    labels = part.class_names()
    with atomic(target) as temporary:
        writer = None
        for rows in torch.arange(len(part)).split(ROWS):
            first, last = int(rows[0]), int(rows[-1]) + 1
            columns = {part.kind: _contents(part, rows)}
            if part.labels is not None:
                columns["label"] = pa.array(labels[first:last], pa.string())
            table = pa.table(columns)
            writer = writer or ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()


def _contents(part: "Data", rows: torch.Tensor) -> Any:
    import pyarrow as pa

    if isinstance(part, Texts):
        return pa.array([part.texts[row] for row in rows.tolist()], pa.string())
    encode = partial(_png, part) if isinstance(part, Images) else partial(_flac, part)
    contents = pa.array([encode(row) for row in rows.tolist()], pa.binary())
    names = pa.array([os.path.basename(part.paths[row]) for row in rows.tolist()], pa.string())
    return pa.StructArray.from_arrays([contents, names], ["bytes", "path"])


def _png(images: Images, row: int) -> bytes:
    from PIL import Image

    pixels = images.batch(torch.tensor([row]))["image"][0].permute(1, 2, 0).cpu().numpy()
    if pixels.shape[2] not in (1, 3):
        raise UserError(
            f"out must list files where images have other than 1 or 3 bands, got {pixels.shape[2]}"
        )
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer := io.BytesIO(), "png")
    return buffer.getvalue()


def _flac(sounds: "Data", row: int) -> bytes:
    import soundfile

    assert isinstance(sounds, Sounds)
    batch = sounds.batch(torch.tensor([row]))
    samples = batch["waveform"][0, : int(batch["length"][0])].cpu().numpy()
    soundfile.write(buffer := io.BytesIO(), samples, sounds.sample_rate, "PCM_16", format="FLAC")
    return buffer.getvalue()


def _write_links(part: "Data", target: Path) -> None:
    """A folder of links to the files, in folders as they are below the one that holds all."""
    _require_files(part, target)
    if target.exists():
        raise UserError(
            f"out must be a folder without {target.name}, which would be mixed with the new one, got {target.parent}"
        )
    full = [os.path.abspath(path) for path in part.paths]
    top = os.path.commonpath([os.path.dirname(path) for path in full])
    for path in full:
        link = target / os.path.relpath(path, top)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


WRITERS: dict[str, Callable[["Data", Path], None]] = {
    "": _write_links,
    ".csv": _write_csv,
    ".txt": _write_list,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
"""Writers by the ending of the file; without one a folder of links."""
