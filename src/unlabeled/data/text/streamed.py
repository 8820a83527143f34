"""Texts of shards, read and encoded while training instead of once: what is too large to be held in memory.

Shards are parquet files or lines of JSON with a column of texts, of which each row is a text, or plain text files,
whose paragraphs are grouped as those of a single file are. All are UTF-8. A text gives one block of its tokens in an
epoch.
"""

import copy
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.columns import choose, flat
from unlabeled.data.notes import note
from unlabeled.data.options import Progress
from unlabeled.data.samples import Batch
from unlabeled.data.streaming.addresses import ending
from unlabeled.data.streaming.data import Decoder, Streamed, first_rows, open_shards
from unlabeled.data.streaming.shards import Content, ShardRows
from unlabeled.data.tables import open_table
from unlabeled.data.text.data import CHARACTERS_OF_A_TOKEN, Texts, as_bytes
from unlabeled.data.text.encodings import only_utf_8, refuse_marked
from unlabeled.data.text.read import groups
from unlabeled.data.text.tokens import Encode, Tokens, packed

__all__ = ["StreamedTexts", "TextDecoder", "open_streamed"]

SHARDS = (".parquet", ".jsonl", ".jsonl.gz", ".txt", ".txt.gz")
_PACKED: dict[str, int] = dict.fromkeys((".parquet", ".jsonl.gz", ".txt.gz"), 6)
"""How many times as large as compressed text its characters are at most, roughly."""
_PEEKED = 1000
"""Records by which columns are recognised."""


def texts_of(path: Path, text_column: str | None = None) -> Iterator[bytes]:
    """Texts of a shard in UTF-8; what is none is empty.

    Args:
        path: The shard.
        text_column: As in `columns.choose`.

    Raises:
        ValueError: It cannot be read, or has no column of texts.
    """
    name = ending(str(path))
    if name == ".parquet":
        table = open_table(path)
        head = list(islice(table.records(), _PEEKED))
        names = _columns(head, path, text_column)
        records: Iterable[Any] = table.records([*dict.fromkeys(column.partition(".")[0] for column in names)])
    elif name.startswith(".txt"):
        with _unpacked(path) as file:
            content = file.read()
        return (part.encode() for part in groups(only_utf_8(content, str(path))))
    else:
        lines = _lines(path)
        first = list(islice(lines, _PEEKED))
        if first and all(record is None for record in first):
            raise UserError(
                f"{path} must hold an object or a text of JSON in UTF-8 on every line, got none in "
                f"the first {len(first):,} lines"
            )
        texts_alone = all(isinstance(record, str | None) for record in first)
        names = () if texts_alone else _columns(first, path, text_column)
        records = chain(first, lines)
    return (_text(record, names).encode("utf-8", "replace") for record in records)


def _columns(records: Sequence[Any], path: Path, text_column: str | None) -> tuple[str, ...]:
    rows = [flat(record) for record in records if isinstance(record, dict)]
    names = choose(rows, str(path), text_column).texts
    if text_column is None:  # each shard chooses, so another choice is said too
        note(f"streamed texts are those of {' and '.join(names)}; --text-column chooses others")
    return names


def _text(record: Any, names: tuple[str, ...]) -> str:
    if isinstance(record, str):
        return record
    fields = flat(record) if isinstance(record, dict) else {}
    return " ".join(value for name in names if isinstance(value := fields.get(name), str))


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """A file, unpacked if it ends with .gz; damage is an error that names it."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} must be a readable file: {check.reason(error)}") from error


def _lines(path: Path) -> Iterator[Any]:
    """What the lines of a file hold; None where that is no JSON."""
    with _unpacked(path) as file:
        refuse_marked(file.peek(4), str(path))
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    yield None


class TextDecoder(Decoder):
    """Reads texts, and encodes them where something does.

    Args:
        source: The shards.
        counts: Texts of each that are used, its first ones, int64, shape (shards,).
        encode: From texts to the numbers of their tokens; None leaves texts as they are.
        first: Tokens that every text starts with.
        characters: Characters of a text that are encoded at most; None for all.
    """

    def __init__(
        self,
        source: ShardRows,
        counts: np.ndarray,
        encode: Encode | None = None,
        first: Sequence[int] = (),
        characters: int | None = None,
    ) -> None:
        super().__init__(source, counts)
        self.encode, self.first, self.characters = encode, first, characters

    def decoded(self, content: bytes) -> tuple[str] | tuple[Tensor, Tensor] | str:
        """A text; tokens and the number of the sentence of each, int32, shape (tokens,); or why there is none."""
        text = content.decode("utf-8", "replace")
        if not text.strip():
            return "no text"
        if self.encode is None:
            return (text,)
        start = text if self.characters is None else text.strip()[: self.characters]
        ids, numbers, _ = packed(self.encode, [start], self.first)
        return (ids, numbers) if len(ids) > len(self.first) else "no tokens"

    def joined(self, samples: list[Any]) -> Batch:
        """As `Texts.batch`; of what is encoded, all tokens in a row, their sentences, and how many each text has."""
        if self.encode is None:
            return as_bytes([text for (text,) in samples])
        ids, numbers = (torch.cat(parts) for parts in zip(*samples))
        return {"tokens": ids, "sentence": numbers, "length": torch.tensor([len(one) for one, _ in samples])}


class StreamedTexts(Streamed):
    """Texts that are read while training.

    Arguments are those of `Streamed`.
    """

    kind = "text"
    unit = "texts"
    group_unit = "documents"
    length: int | None = None
    """Most tokens that are given out of a text; None where texts are not encoded."""
    overlap: int | None = None
    """Tokens that a block has in common with the one before; None gives out the start of every text."""

    @property
    def shape(self) -> dict[str, int]:
        return {} if self.length is None else {"length": self.length}

    def finished(self, batch: Batch) -> Batch:
        """As `Texts.batch`, or of encoded texts as `Tokens.batch`: the start, or a random block of each."""
        if self.length is None:
            return batch
        rows, lengths = batch["index"], batch["length"]
        begins = lengths.cumsum(0) - lengths
        ends = begins + lengths
        if self.overlap is not None:
            step = self.length - self.overlap
            blocks = ((lengths - self.overlap + step - 1) // step).clamp(min=1)
            begins = begins + step * (torch.rand(len(rows)) * blocks).long().minimum(blocks - 1)
        tokens = Tokens(
            batch["tokens"],
            batch["sentence"],
            begins,
            (ends - begins).clamp(max=self.length),
            documents=rows,
            name=self.name,
            paths=[""] * len(rows),
        )
        rest = {name: batch[name] for name in ("index", "replaced") if name in batch}
        return tokens.batch(torch.arange(len(rows))) | rest

    def blocks(
        self,
        encode: Encode,
        length: int,
        *,
        first: Sequence[int] = (),
        overlap: int = 0,
        fewest_sentences: int = 1,
    ) -> Self:
        """Blocks of the tokens of texts as `Texts.blocks` cuts them, for each text a random one whenever it is read.

        Args: as those of `Texts.blocks`.

        Raises:
            ValueError: Blocks of several sentences are asked for: texts without one are known only when they are read.
        """
        check.at_least(overlap + 1, length=length)
        if fewest_sentences > 1:
            raise UserError("next_sentence must be off for streamed texts (--no-next-sentence)")
        return self._encoded(encode, length, first, None, overlap)

    def starts(self, encode: Encode, length: int, *, first: Sequence[int] = ()) -> Self:
        """The first tokens of every text, as `Texts.starts` gives them."""
        check.at_least(len(first) + 1, length=length)
        return self._encoded(encode, length, first, CHARACTERS_OF_A_TOKEN * length, None)

    def words(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError(
            "stream must be off for word vectors, whose methods count the words of all texts first"
        )

    def _encoded(
        self, encode: Encode, length: int, first: Sequence[int], characters: int | None, overlap: int | None
    ) -> Self:
        view = copy.copy(self)
        view.length, view.overlap = length, overlap
        view._use(TextDecoder(self.decoder.source, self.decoder.counts, encode, first, characters))
        return view

    def gathered(self, samples: list[tuple[str]], paths: list[str]) -> Texts:
        return Texts([text for (text,) in samples], name=self.name, paths=paths)


def open_streamed(
    source: str,
    *,
    workers: int,
    cache_size: str | None = None,
    text_column: str | None = None,
    max_broken: float = 0.1,
    progress: Progress | None = None,
) -> StreamedTexts:
    """Open texts to be read while training.

    Args:
        source: As in `find_shards`.
        workers: Processes that read ahead of the training, 0 for none.
        cache_size: Bytes that shards may take on the disk, such as 200GB; None for half of what is free.
        text_column: Column of the texts, or several with commas between them, to be joined; None chooses.
        max_broken: Largest fraction of the texts that may be unreadable, in 0..1.
        progress: Called with the shards done so far and their number, while they are counted.

    Raises:
        ValueError: No shard is there, or a shard or too many texts cannot be read.
        ConnectionError: The server does not answer.
    """
    rows = partial(texts_of, text_column=text_column)
    content = Content("texts", (), rows, SHARDS, _PACKED, text_column or "")
    opened = open_shards(source, content, cache_size, progress)
    decoder = TextDecoder(opened.rows, opened.lengths.counts)
    data = StreamedTexts(
        decoder,
        name=opened.name,
        workers=workers,
        max_broken=max_broken,
        skipped=opened.lengths.skipped,
    )
    decoder.samples(first_rows(decoder.counts))  # which refuses shards that hold no texts
    opened.divided(data)
    return data
