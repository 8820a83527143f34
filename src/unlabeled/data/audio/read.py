"""Sounds in files, tables and arrays, decoded once.

Read are folders of audio files (perhaps in class folders, and these in split folders), parquet files with a column of
encoded audio, .npy and .npz files, and arrays. Channels are averaged, every sound is brought to one sample rate, and
the result is stored as 16-bit numbers. An .npz file holds `waveforms` (floats in -1..1 or int16, shape (sounds,
samples)), `sample_rate`, and perhaps `lengths` in samples and `labels`; or these once per split, as `train_waveforms`
and so on.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import read_splits
from unlabeled.data.audio.data import Sounds, from_waveforms, in_16_bits
from unlabeled.data.audio.decode import Scale, decode, header, scale_of
from unlabeled.data.cache import folder_of, load_or_build
from unlabeled.data.decoding import Recorder, samples_of
from unlabeled.data.files import FILMS, SOUNDS, Walk, by_name, separate, split_column, split_words, walk
from unlabeled.data.labels import label_column, raw
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions
from unlabeled.data.pool import in_order, or_reason
from unlabeled.data.samples import Item
from unlabeled.data.sources import Reading, Source, find_files
from unlabeled.data.tables import Table, open_table
from unlabeled.parts.resample import resample

__all__ = ["converted", "find", "sound_column"]

_NEVER_FLOATS = (".flac", ".ogg", ".oga", ".opus", ".mp3")
_SEEN_FOR_RATE = 1_000
_PEEKED = 3
"""Videos in which pictures are looked for."""
_LOOKED_AT = 2**20
"""Samples in which sound is searched for at a time."""


def find(
    source: str | os.PathLike[str] | np.ndarray | Tensor, options: OpenOptions
) -> Mapping[str, Callable[[], Sounds]]:
    """What opens each split of a source of sounds; "all" where it has none.

    Args:
        source: A folder of audio files or of parquet files, one such file, a .npy or .npz file, or an array.
        options: How it is opened; the sample rate is that of arrays, and what all else is converted to.

    Raises:
        ValueError: There are no sounds, or an array comes without its sample rate.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return {"all": partial(_from_array, {"waveforms": source}, "array", options)}
    name, path = os.fspath(source), Path(source).expanduser()
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        parts = read_splits(path, "waveforms", ("lengths", "labels", "sample_rate"))
        return {split: partial(_from_array, part, str(path), options) for split, part in parts.items()}
    listing = walk(path)
    if any(file.suffix == ".parquet" for file in listing.files):
        sources = _find_tables(listing, name, options.label)
    else:
        sources = find_files(path, name, _endings(listing), "sounds", options.label)
    everything = [part.fingerprint for part in sources.values()]  # the scale is that of all splits

    @cache
    def scale() -> Scale:
        return scale_of(_peaks(item for part in sources.values() for item in part.read().items), name)

    def open_part(part: Source) -> Sounds:
        return _open(part, ["sounds", [part.fingerprint, everything], options.sample_rate], scale, options)

    return {split: partial(open_part, part) for split, part in sources.items()}


def _endings(listing: Walk) -> tuple[str, ...]:
    """Endings of the sounds: those of videos where there is nothing else, or where the first of these show nothing."""
    from unlabeled.data.video.decode import has_pictures

    films = [listing.root / file.path for file in listing.files if file.ends(FILMS)]
    if not films:
        return SOUNDS
    if not any(file.ends(SOUNDS) for file in listing.files):
        return FILMS
    return SOUNDS if any(map(has_pictures, films[:_PEEKED])) else (*SOUNDS, *FILMS)


def _open(source: Source, key: Any, scale: Callable[[], Scale], options: OpenOptions) -> Sounds:
    """Sounds of a split, from the cache where they are there."""
    content, facts = load_or_build(key, partial(_write, source, scale, options), folder_of(options.cache))
    about = samples_of(source, facts, options.max_broken)
    samples = content.view(torch.int16)
    if not any(bool(part.any()) for part in samples.split(_LOOKED_AT)):  # ends at the first that is heard
        note(f"{source.name}: all {len(about['paths'])} sounds are silent")
    about["factors"] = {name: torch.tensor(values) for name, values in facts["factors"].items()}
    lengths = torch.tensor(facts["lengths"], dtype=torch.int64)
    return Sounds(samples, lengths, sample_rate=facts["sample_rate"], **about)


def _write(
    source: Source, scale: Callable[[], Scale], options: OpenOptions, stream: BinaryIO
) -> dict[str, Any]:
    """Write all sounds of a split one after the other as 16-bit numbers, and describe them."""
    reading = source.read()
    rate = options.sample_rate or _commonest_rate(source.read().items)
    recorder = Recorder(stream, reading.total, options.progress, ("lengths", "factors"))
    work = partial(_samples, rate=rate, scale=scale())
    for sound, samples in in_order(or_reason(work), reading.items, options.threads):
        if isinstance(samples, str):
            recorder.skip(sound.path, samples)
        else:
            facts = {"labels": raw(sound.label), "lengths": len(samples), "factors": sound.factors}
            recorder.add(sound.path, samples.numpy().tobytes(), **facts)
    factors = recorder.facts.pop("factors")
    names = factors[0] if factors else ()
    return recorder.facts | {
        "sample_rate": rate,
        "classes": reading.classes,
        "factors": {name: [values[name] for values in factors] for name in names},
    }


def _samples(sound: Item, rate: int, scale: Scale) -> Tensor:
    return converted(sound.content, rate, scale)


def converted(content: Path | bytes, rate: int, scale: Scale) -> Tensor:
    """A sound as int16, shape (samples,).

    Args:
        content: A file or its bytes.
        rate: Samples per second that it is brought to, in hertz.
        scale: How floats are scaled.

    Raises:
        ValueError: It cannot be read.
    """
    samples, native = decode(content)
    if scale != Scale() and header(content).floats:
        if (peak := float(samples.abs().max())) > scale.most:
            raise UserError(f"floats up to {peak:g}, where full scale of the others is {scale.divisor:g}")
        samples /= scale.divisor
    return in_16_bits(resample(samples, native, rate))


def _commonest_rate(sounds: Iterable[Item]) -> int:
    """The sample rate that most of the first thousand sounds have."""
    rates: Counter[int] = Counter()
    for sound in islice(sounds, _SEEN_FOR_RATE):
        try:
            rates[header(sound.content).sample_rate] += 1
        except ValueError:  # it is decoded later, and the reason recorded then
            continue
    return rates.most_common(1)[0][0] if rates else 1


def _peaks(sounds: Iterable[Item]) -> list[float]:
    """Largest absolute value of each file of floats that can be read."""

    def peak(sound: Item) -> float:
        try:
            return float(decode(sound.content)[0].abs().max()) if header(sound.content).floats else 0.0
        except ValueError:  # it is decoded later, and the reason recorded then
            return 0.0

    possible = (sound for sound in sounds if not sound.path.lower().endswith(_NEVER_FLOATS))
    return [value for _, value in in_order(peak, possible, os.cpu_count() or 1)]


def sound_column(table: Table) -> str:
    """The column of encoded sounds of a table: that of a struct as `datasets` writes it, else of bytes.

    Raises:
        ValueError: There is none.
    """
    images = [column for column, its in table.features.items() if its.get("_type") == "Image"]
    kinds = {column: kind for column, kind in table.kinds.items() if column not in images}
    for preference in ("encoded", "bytes"):
        if columns := [column for column, kind in kinds.items() if kind == preference]:
            return columns[0]
    raise UserError(f"{table.path} must have a column of audio, got {check.one_line(', '.join(table.kinds))}")


class _Columns:
    """Columns of parquet files: which holds the sounds, which the labels, and what other words count as."""

    def __init__(self, tables: list[Table], label: str | None) -> None:
        kinds, classes, name = tables[0].kinds, tables[0].classes, str(tables[0].path)
        self.sound = sound_column(tables[0])
        usual = label_column([c for c in kinds if c != self.sound] if label is None else kinds, label, name)
        self.label = next(iter(classes), usual) if label is None else usual
        self.classes = classes.get(self.label) if self.label else None
        others = {column: kind for column, kind in kinds.items() if column not in (self.sound, self.label)}
        self.numbers = [column for column, kind in others.items() if kind == "number"]
        self.words: dict[str, dict[str, int]] = {}
        for column in (column for column, kind in others.items() if kind == "text"):
            words = {row[column] for table in tables for row in table.records([column])} - {None}
            # A word of its own for every other sound is a name or a transcript, no property that sounds have in common.
            if 1 < len(words) <= sum(table.rows or 0 for table in tables) / 2:
                self.words[column] = {word: number for number, word in enumerate(sorted(words))}

    def splits(self, table: Table) -> list[str] | None:
        """The split of each row, as a column says it; None where none does."""
        column = split_column(table.schema.names)
        if column is None or column in (self.sound, self.label):
            return None
        return split_words(row[column] for row in table.records([column]))

    def sounds(self, table: Table, split: str = "") -> Iterator[Item]:
        """Sounds of the rows of a table, of one split if it is named."""
        columns = [self.sound, *([self.label] if self.label else []), *self.words, *self.numbers]
        splits = self.splits(table) if split else None
        for number, row in enumerate(table.records(columns)):
            if splits is not None and splits[number] != split:
                continue
            sound: dict[str, Any] = row[self.sound] or {}
            if isinstance(sound, bytes):
                sound = {"bytes": sound}
            factors = {name: index.get(row[name], -1) for name, index in self.words.items()}
            factors |= {name: float("nan") if row[name] is None else row[name] for name in self.numbers}
            path, content = sound.get("path") or f"{table.path.name}#{number}", sound.get("bytes")
            content = table.path.parent / path if content is None else content
            yield Item(path, row.get(self.label or ""), content, factors)


def _find_tables(listing: Walk, name: str, label: str | None) -> dict[str, Source]:
    files = [file for file in listing.files if file.suffix == ".parquet"]
    tables = {file.path: open_table(listing.root / file.path) for file in files}
    columns = _Columns(list(tables.values()), label)

    def source(part: list[Any], split: str = "") -> Source:
        rows = [tables[file.path] for file in part]
        total = None if split else sum(table.rows or 0 for table in rows)
        place = ["parquet", os.path.realpath(listing.root), part, *([split] if split else [])]
        sounds = partial(columns.sounds, split=split)
        return Source(
            name,
            lambda: Reading(columns.classes, total, chain.from_iterable(map(sounds, rows))),
            [*place, columns.label, columns.words, columns.numbers],
            os.path.join(listing.root, ""),
        )

    parts = by_name(files)
    words = [columns.splits(table) for table in tables.values()] if parts.keys() == {"all"} else []
    known = {word for own in words for word in own or ()}
    if None not in words and separate(known):
        note(f"{name}: a column says the splits of the sounds: {', '.join(sorted(known))}")
        return {split: source(files, split) for split in sorted(known)}
    return {split: source(part) for split, part in parts.items()}


def _from_array(part: Mapping[str, Any], name: str, options: OpenOptions) -> Sounds:
    rate = _rate(part["sample_rate"], name) if "sample_rate" in part else options.sample_rate
    if rate is None:
        raise UserError(f"sample_rate must be given, since {name} does not state it")
    sounds = from_waveforms(
        part["waveforms"], rate, lengths=part.get("lengths"), labels=part.get("labels"), name=name
    )
    try:
        return sounds.resampled(options.sample_rate or rate)
    except ValueError as error:
        raise UserError(f"sample_rate of {name} must be near the one requested: {error}") from error


def _rate(stated: Any, name: str) -> int:
    value = np.asarray(stated)
    if value.size != 1 or value.dtype.kind not in "iuf" or not 1 <= value.item() < 2**31 or value.item() % 1:
        got = check.reason(ValueError(value.tolist()))
        raise UserError(f"sample_rate of {name} must be a whole number above 0, got {got}")
    return int(value.item())
