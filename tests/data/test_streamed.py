"""Streamed samples: those of the files, the same however they are read, with substitutes for what is broken."""

import gzip
import io
import json
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from unlabeled.check import UserError
from unlabeled.data import Data, open_data
from unlabeled.data.image.streamed import IMAGES, ImageDecoder, StreamedImages, open_streamed
from unlabeled.data.notes import note
from unlabeled.data.streaming import addresses
from unlabeled.data.streaming import data as streamed
from unlabeled.data.streaming import order as orders
from unlabeled.data.streaming.addresses import Shard
from unlabeled.data.streaming.cache import ShardCache
from unlabeled.data.streaming.data import Streamed
from unlabeled.data.streaming.opening import open_streamed as any_streamed
from unlabeled.data.streaming.shards import ShardRows

LENGTHS = [9, 4, 13, 6]
BATCH = 8


def picture(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def sound(number: int, length: int = 64, rate: int = 8000) -> bytes:
    values = np.random.default_rng(number).uniform(-1, 1, length)
    soundfile.write(stream := io.BytesIO(), values, rate, "PCM_16", format="WAV")
    return stream.getvalue()


def write_tars(folder: Path, contents: list[list[bytes]], ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, files in enumerate(contents):
        with tarfile.open(folder / f"shard-{shard:02}.tar", "w") as archive:
            for row, content in enumerate(files):
                for name, data in ((f"{row:03}.{ending}", content), (f"{row:03}.json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def text(number: int) -> bytes:
    letters = np.random.default_rng(number).choice(list("abcdefg "), 40)
    return f"{number:03}{''.join(letters)}.".encode()


def write_lines(folder: Path, contents: list[list[bytes]], ending: str = "jsonl") -> Path:
    """Objects on lines, of which those without a text are broken."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, texts in enumerate(contents):
        lines = [json.dumps({"text": text.decode(), "id": 1}) if text else "{broken" for text in texts]
        (folder / f"shard-{shard:02}.{ending}").write_text("\n".join(lines))
    return folder


class Kind(NamedTuple):
    """A kind of data: a file of it by its number, how shards are written and opened, and what a batch holds of it."""

    name: str
    make: Callable[[int], bytes]
    write_all: Callable[[Path, list[list[bytes]], str], Path]
    ending: str
    reading: dict[str, Any]
    key: str
    shard: str = "tar"

    def contents(self, lengths: list[int] = LENGTHS) -> list[list[bytes]]:
        numbers = iter(range(sum(lengths)))
        return [[self.make(next(numbers)) for _ in range(length)] for length in lengths]

    def write(self, folder: Path, lengths: list[int] = LENGTHS) -> Path:
        return self.write_all(folder, self.contents(lengths), self.ending)

    def open(self, source: Path | str, workers: int = 0, **options: Any) -> Streamed:
        return any_streamed(str(source), self.name, workers=workers, **self.reading, **options)

    def whole(self, source: Path) -> Data:
        """The same data, decoded once; sounds are not read from tar files, so the test unpacks them."""
        if self.name != "audio":
            return open_data(source, kind=self.name)
        for file in source.glob("*.tar"):
            with tarfile.open(file) as archive:
                members = [member for member in archive if member.name.endswith(self.ending)]
                archive.extractall(source / "files" / file.stem, members, filter="data")
        return open_data(source / "files", kind=self.name)

    def path(self, folder: Path, shard: int, row: int) -> str:
        name = f"{folder}/shard-{shard:02}.{self.shard}"
        return f"{name}/{row:03}.{self.ending}" if self.shard == "tar" else f"{name}#{row}"


IMAGE = Kind("image", picture, write_tars, "png", {"side": 160}, "image")
SOUND = Kind("audio", sound, write_tars, "wav", {}, "waveform")
TEXT = Kind("text", text, write_lines, "jsonl", {}, "tokens", "jsonl")
KINDS = [IMAGE, SOUND, TEXT]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def pictures(lengths: list[int] = LENGTHS) -> list[list[bytes]]:
    return IMAGE.contents(lengths)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return IMAGE.write(tmp_path / "shards")


def opened(source: Path | str, workers: int = 0, **options: Any) -> Streamed:
    return open_streamed(str(source), side=160, workers=workers, **options)


def batches(data: Streamed, epochs: int = 2, pieces: int = 4, start: int = 0) -> Iterator[torch.Tensor]:
    """Rows of all batches of some epochs."""
    rows = [data.order(epoch, BATCH, pieces)[:].split(BATCH) for epoch in range(epochs)]
    return iter([part for epoch in rows for part in epoch][start:])


def samples(
    data: Streamed, coming: Iterator[torch.Tensor], key: str = "image", announced: bool = True
) -> list[torch.Tensor]:
    order = list(coming)
    if announced:
        data.announce(iter(order), further=2)
    return [data.batch(rows)[key] for rows in order]


def test_samples_are_those_of_the_same_files_decoded_once(kind: Kind, tmp_path: Path) -> None:
    shards = kind.write(tmp_path / "shards")
    data, whole = kind.open(shards), kind.whole(shards)
    assert (len(data), data.shape, data.kind) == (len(whole), whole.shape, whole.kind)
    rows = torch.randperm(len(data))[:10]
    batch, expected = data.batch(rows), whole.batch(rows)
    assert batch.keys() == expected.keys() and all(torch.equal(batch[key], expected[key]) for key in batch)
    assert data.paths[9] == f"{shards}/shard-01.{kind.shard}#0" and len(data.paths) == sum(LENGTHS)


def test_sounds_of_several_lengths_and_rates_are_cut_as_those_in_memory(tmp_path: Path) -> None:
    lengths = (90, 700, 400, 64)
    contents = [[sound(number, length) for number, length in enumerate(lengths)]]
    shards = write_tars(tmp_path / "shards", contents, "wav")
    data, whole = (one.crops(0.03) for one in (SOUND.open(shards), SOUND.whole(shards)))  # type: ignore[attr-defined]
    for seed in (0, 1):
        batches = []
        for one in (data, whole):
            torch.manual_seed(seed)
            batches.append(one.batch(torch.tensor([1, 0, 3, 2])))
        assert batches[0]["length"].tolist() == [240, 90, 64, 240]
        assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    assert data.resampled(4000).batch(torch.tensor([1]))["length"].tolist() == [120]
    write_tars(tmp_path / "mixed", [[sound(0), sound(1), sound(2, rate=16_000)]], "wav")
    mixed = SOUND.open(tmp_path / "mixed")
    assert mixed.shape == {"sample_rate": 8000}
    assert mixed.batch(torch.arange(3))["length"].tolist() == [64, 64, 32]


def test_images_of_several_sizes_are_padded(tmp_path: Path) -> None:
    write_tars(tmp_path, [[picture(0, (5, 9)), picture(1, (7, 6))]])
    data, whole = opened(tmp_path), open_data(tmp_path)
    assert data.shape["image_size"] == whole.shape["image_size"]
    ours, theirs = (one.batch(torch.tensor([1, 0])) for one in (data, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("image", "size"))


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_lines_and_plain_texts_are_rows(ending: str, packing: str, tmp_path: Path) -> None:
    parts = [f"{number}: {'word ' * 500}" for number in range(5)]
    content = "\n".join(map(json.dumps, parts)) if ending == "jsonl" else "\n\n".join(parts)
    (tmp_path / f"a.{ending}").write_text(content)
    whole = open_data(tmp_path / f"a.{ending}", kind="text")
    if packing:
        (tmp_path / f"a.{ending}.gz").write_bytes(gzip.compress(content.encode()))
        (tmp_path / f"a.{ending}").unlink()
    data = TEXT.open(tmp_path)
    assert len(data) == len(whole) >= 5
    assert data.in_memory(9).texts == [whole.texts[row] for row in data.sample(9)["index"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz"])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "not packed"])
def test_a_packed_shard_that_is_damaged_is_refused_by_name(name: str, damage: str, tmp_path: Path) -> None:
    lines = "\n".join(f'"{number}"' for number in np.random.default_rng(0).random(2000)).encode()
    packed = gzip.compress(lines)
    damaged = {"cut": packed[:-5000], "overwritten": packed[:20] + bytes([255, 0, 255]) + packed[23:]}
    (tmp_path / name).write_bytes(damaged.get(damage, lines))
    with pytest.raises(UserError, match=rf"{name} must be a readable file: "):
        TEXT.open(tmp_path)


def test_the_columns_of_texts_are_said_also_where_shards_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, column in enumerate(("review", "review", "abstract")):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({column: "Some words of a text.", "id": number}))
    TEXT.open(tmp_path)
    assert [message for message in caplog.messages if message.startswith("streamed texts")] == [
        f"streamed texts are those of {column}; --text-column chooses others"
        for column in ("review", "abstract")
    ]


def test_the_byte_order_mark_of_a_text_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffSome words.".encode())
    assert TEXT.open(tmp_path).in_memory(1).texts == ["Some words."]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "one word, é".encode("utf-16"), "must be UTF-8 to be streamed, got utf-16"),
        ("a.txt", "été à l'hôtel".encode("latin-1"), "must be UTF-8 to be streamed, got another encoding"),
        ("a.txt", bytes(range(256)), "is binary, not a text"),
        ("a.jsonl", '"one word, é"\n"two"'.encode("utf-16"), "must be UTF-8 to be streamed, got utf-16"),
        ("a.jsonl", b'["one",\n"two",\n"three"]', "must hold an object or a text of JSON"),
        ("a.jsonl", '"été"\n"hôtel"'.encode("latin-1"), "must hold an object or a text of JSON in UTF-8"),
        ("a.txt.gz", gzip.compress(bytes(9999), mtime=0)[:-9], "must be a readable file: "),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 99, "must be a readable file: "),
    ],
)
def test_texts_that_are_not_utf_8_are_refused_by_name(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} {reason}"):
        TEXT.open(tmp_path)


def test_a_mark_of_utf_8_is_no_character_and_a_few_damaged_bytes_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "été à l'hôtel ".encode() * 9 + b"\xff")
    note.cache_clear()
    data = TEXT.open(tmp_path)
    assert data.in_memory(1).texts == ["été à l'hôtel " * 9 + "\ufffd"]  # type: ignore[attr-defined]
    assert "a.txt: byte 165 (0xff) is not UTF-8; replaced by" in caplog.text


def test_a_cache_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/shards"):
        ShardCache(tmp_path / "file" / "shards", 10**6).file("a", 1, Path.touch)


def characters(texts: list[str]) -> list[list[int]]:
    return [[ord(character) for character in text] for text in texts]


def test_a_text_gives_its_blocks_and_its_start_as_in_memory(tmp_path: Path) -> None:
    contents = [[b"Abcdefghi jkl. Mno pq.", b"Short.", b"x" * 17]]
    shards = TEXT.write_all(tmp_path / "shards", contents, "jsonl")
    data, whole = TEXT.open(shards), TEXT.whole(shards)
    for options in ({"length": 8}, {"length": 8, "first": [1, 1], "overlap": 2}):
        blocks: Any = whole.blocks(characters, **options)  # type: ignore[attr-defined]
        expected = blocks.batch(torch.arange(len(blocks)))
        owners = expected["document"].tolist()
        wanted = {
            (owner, *tokens[mask].tolist(), *sentences[mask].tolist())
            for owner, tokens, mask, sentences in zip(
                owners, expected["tokens"], expected["mask"], expected["sentence"]
            )
        }
        seen, view = set(), data.blocks(characters, **options)  # type: ignore[attr-defined]
        for seed in range(30):
            torch.manual_seed(seed)
            batch = view.batch(torch.tensor([2, 0, 1]))
            assert batch.keys() == expected.keys() and batch["document"].tolist() == [2, 0, 1]
            for owner, tokens, mask, sentences in zip(
                (2, 0, 1), batch["tokens"], batch["mask"], batch["sentence"]
            ):
                seen.add((owner, *tokens[mask].tolist(), *sentences[mask].tolist()))
        assert seen == wanted and len(wanted) >= 6
    starts = [one.starts(characters, 10, first=[7]) for one in (data, whole)]  # type: ignore[attr-defined]
    ours, theirs = (one.batch(torch.arange(3)) for one in starts)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    with pytest.raises(UserError, match="next_sentence must be off for streamed texts"):
        data.blocks(characters, 8, fewest_sentences=2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_give_the_batches_that_one_process_gives(
    kind: Kind, tmp_path: Path, workers: int
) -> None:
    shards = kind.write(tmp_path / "shards")
    alone = samples(data := kind.open(shards), batches(data), kind.key)
    several = samples(data := kind.open(shards, workers), batches(data), kind.key)
    assert len(alone) == 8 and all(map(torch.equal, alone, several))
    data.announce(iter(()))


def test_batches_that_were_not_announced_are_read_all_the_same(shards: Path) -> None:
    data = opened(shards)
    expected = samples(data, batches(data), announced=False)
    data.announce(batches(data))
    order = list(batches(data))
    for number in (0, 2, 3, 7, 1):  # some left out, and one after the last
        assert torch.equal(data.batch(order[number])["image"], expected[number])


def test_a_cache_of_a_third_stays_small_and_each_epoch_transfers_each_shard_about_once(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "WINDOW", 6)
    folder = write_tars(tmp_path / "shards", pictures([6] * 12))
    server = serve({path.name: path.read_bytes() for path in folder.iterdir()})
    size = max(map(len, server.files.values()))
    source = f"{server.address}/shard-{{00..11}}.tar"
    data = opened(source, cache_size=str(4 * size))
    epochs, peak = 3, 0
    before = server.sent
    data.announce(batches(data, epochs, pieces=1), further=1)
    for rows in batches(data, epochs, pieces=1):
        data.batch(rows)
        taken = 0
        for name in os.listdir(tmp_path / "cache" / "shards"):
            with suppress(FileNotFoundError):  # removed meanwhile
                taken += (
                    0 if name.endswith(".lock") else os.stat(tmp_path / "cache" / "shards" / name).st_size
                )
        peak = max(peak, taken)
    assert peak <= 4 * size
    assert server.sent - before <= 1.15 * epochs * sum(map(len, server.files.values()))


def test_broken_samples_are_replaced_by_others_of_their_shard_and_listed(kind: Kind, tmp_path: Path) -> None:
    contents, folder = kind.contents(), tmp_path / "shards"
    broken = {(0, 8), (2, 5), (2, 6)}
    for shard, row in broken:
        contents[shard][row] = contents[shard][row][: 0 if kind is TEXT else 30]
    kind.write_all(folder, contents, kind.ending)
    data = kind.open(folder, workers=2)
    whole = kind.whole(folder)  # without them
    rows = torch.arange(len(data))
    data.announce(iter(rows.split(BATCH)))
    batches = [data.batch(part) for part in rows.split(BATCH)]
    data.announce(iter(()))
    read = torch.cat([batch[kind.key] for batch in batches])
    replaced = [
        batch.get("replaced", torch.zeros(len(batch["index"]), dtype=torch.bool)) for batch in batches
    ]
    assert torch.cat(replaced).nonzero()[:, 0].tolist() == [8, 18, 19]
    assert {skip.path for skip in data.broken} == {kind.path(folder, *place) for place in broken}
    assert len(data.broken) == 3
    good = [row for row in range(len(data)) if row not in (8, 18, 19)]
    assert torch.equal(read[good], whole.batch(torch.arange(len(whole)))[kind.key])
    assert (
        torch.equal(read[8], read[0]) and torch.equal(read[18], read[20]) and torch.equal(read[19], read[20])
    )


def test_a_shard_without_images_and_too_many_broken_ones_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    garbage = [b"\x89PNG garbage" for _ in range(4)]
    write_tars(tmp_path / "one", [*pictures([3]), garbage])
    with pytest.raises(UserError, match=r"shard-01.tar must hold images, got 4 in a row that cannot be read"):
        opened(tmp_path / "one")
    write_tars(tmp_path / "half", [[file for pair in zip(*pictures([4]), garbage) for file in pair]])
    data = opened(tmp_path / "half")
    data.batch(torch.arange(8))  # too few to say
    monkeypatch.setattr(streamed, "_COUNTED", 16)
    with pytest.raises(
        UserError, match=r"8 of 16 files in .*half cannot be read, .* max_broken of 0.1 allows"
    ):
        data.batch(torch.arange(8))


def test_a_lost_server_is_an_error_and_never_a_substitute(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "WAIT", 0.001)
    folder = write_tars(tmp_path / "shards", pictures([6] * 12))
    server = serve({path.name: path.read_bytes() for path in folder.iterdir()})
    size = max(map(len, server.files.values()))
    data = opened(f"{server.address}/shard-{{00..11}}.tar", workers=1, cache_size=str(2 * size))
    server.failures, server.status = 999, 503
    data.announce(batches(data))
    with pytest.raises(ConnectionError, match=r"\.tar cannot be read after 5 tries: status 503$"):
        for rows in batches(data):
            data.batch(rows)
    data.announce(iter(()))
    assert not data.broken


@pytest.mark.parametrize("plain", [False, True])
def test_tables_are_streamed_too(kind: Kind, plain: bool, tmp_path: Path) -> None:
    """Of structs, those of images and sounds as `datasets` writes them, and of bytes or texts."""
    for shard, files in enumerate(kind.contents()):
        values = [content.decode() for content in files] if kind is TEXT else files
        key = "body" if kind is TEXT else "bytes"
        rows: list[Any] = values if plain else [{key: value, "path": None} for value in values]
        pq.write_table(pa.table({kind.name: rows, "label": [0] * len(rows)}), tmp_path / f"{shard}.parquet")
    whole = kind.whole(kind.write(tmp_path / "shards"))
    data = kind.open(tmp_path / "*.parquet", cache_size="1MB")
    order = torch.randperm(len(data))
    assert torch.equal(data.batch(order)[kind.key], whole.batch(order)[kind.key])


def test_tables_without_the_kind_are_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    pq.write_table(pa.table({"number": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a.parquet must (hold images|have a column of (audio|texts)), got .*number"
    ):
        kind.open(tmp_path)


def test_what_is_held_out_is_not_trained_on(kind: Kind, tmp_path: Path) -> None:
    data = kind.open(kind.write(tmp_path / "shards"))
    parts = data.hold_out(8)
    assert parts is not None
    train, held_out = parts
    assert len(train) + len(held_out) == len(data) and len(held_out) == 8
    assert held_out.kind == data.kind and held_out.shape == data.shape
    everything = {one.numpy().tobytes() for one in data.batch(torch.arange(len(data)))[kind.key]}
    apart = [
        {one.numpy().tobytes() for one in part.batch(torch.arange(len(part)))[kind.key]}
        for part in (train, held_out)
    ]
    assert not apart[0] & apart[1] and apart[0] | apart[1] == everything
    assert kind.open(kind.write(tmp_path / "one", [1])).hold_out(8) is None


def test_samples_are_the_same_for_the_same_seed(kind: Kind, tmp_path: Path) -> None:
    data = kind.open(kind.write(tmp_path / "shards"))
    first, again, other = (data.sample(8, seed)["index"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(data.sample(999)["index"].unique()) == len(data)
    inside = data.in_memory(8, 1)
    assert torch.equal(inside.batch(torch.arange(8))[kind.key], data.sample(8, 1)[kind.key])


def test_data_is_known_again_wherever_it_lies(shards: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    for folder, contents in ((copy, pictures()), (other, pictures([*LENGTHS, 2]))):
        write_tars(folder, contents)
    assert opened(shards).identity == opened(copy).identity != opened(other).identity
    assert opened(shards).identity["shards"] == 4


def test_grey_images_are_one_channel_and_deep_ones_need_levels(tmp_path: Path) -> None:
    def grey(dtype: type, top: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.arange(64).reshape(8, 8).astype(dtype) * top).save(stream, "png")
        return stream.getvalue()

    assert opened(write_tars(tmp_path / "grey", [[grey(np.uint8, 1)] * 2])).shape["channels"] == 1
    deep = write_tars(tmp_path / "deep", [[grey(np.uint16, 1000)] * 2])
    with pytest.raises(UserError, match="levels must be given to stream images of more than 8 bits"):
        opened(deep)
    assert opened(deep, levels="0,63000").batch(torch.tensor([0]))["image"].flatten()[[0, -1]].tolist() == [
        0,
        255,
    ]


def test_pieces_are_what_the_cache_has_room_for(serve: Callable[..., Any], tmp_path: Path) -> None:
    folder = write_tars(tmp_path / "shards", pictures([6] * 4))
    assert opened(folder).pieces(64, 1) == 64  # nothing is cached
    server = serve({path.name: path.read_bytes() for path in folder.iterdir()})
    source, size = f"{server.address}/shard-{{00..03}}.tar", max(map(len, server.files.values()))
    need = 2 + -(-1024 // 6)  # shards of a piece
    assert opened(source, cache_size=str(5 * need * size)).pieces(64, 1) == 4
    assert opened(source, cache_size=str(5 * need * size)).pieces(64, 2, nodes=2) == 8
    with pytest.raises(UserError, match=r"cache_size must be at least .* for shards of up to"):
        opened(source, cache_size=str(5 * need * size)).pieces(64, 8)


def test_a_billion_images_are_opened_and_resumed_amid_an_epoch_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up index without files: no step may take time for each image, or much for each shard."""
    shards, rows, content = 20_000, 50_000, picture(0)
    files = [Shard(f"s3://bucket/{shard:06}.parquet", 3 * 10**8, "") for shard in range(shards)]
    store = ShardCache(tmp_path / "shards", 2 * 10**12)
    with monkeypatch.context() as patched:  # what is done once
        patched.setattr(ShardRows, "_rows_of_table", lambda self, shard: (rows, []))
        ShardRows(files, store, tmp_path / "indices", IMAGES).lengths()
    monkeypatch.setattr(ShardRows, "read", lambda self, shard, rows: [content] * len(rows))
    began = time.process_time()
    source = ShardRows(files, store, tmp_path / "indices", IMAGES)
    decoder = ImageDecoder(source, source.lengths().counts, 8, 3, {})
    data = StreamedImages(decoder, name="made up", image_size=8, workers=0, max_broken=0.1)
    assert data.pieces(4096, 64, nodes=8) == 64 and data.identity["shards"] == shards
    train, held_out = data.hold_out(64) or pytest.fail("nothing is held out")
    order = train.order(1, 4096, 64)
    coming = order[200_000 * 4096 : 200_001 * 4096][:64]  # of one process
    train.announce(iter([coming]), further=16)
    assert torch.equal(train.batch(coming)["index"], coming) and len(held_out) == 64
    seconds = time.process_time() - began
    train.announce(iter(()))
    assert len(data) == 10**9 and data.paths[-1] == "s3://bucket/019999.parquet#49999"
    assert seconds < 1


def memory_of(pids: Iterable[int | None]) -> int:
    """Bytes of processes together, where what several share counts once."""
    files = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return 1024 * sum(int(line.split()[1]) for file in files for line in file.splitlines() if "Pss:" in line)


def watch_memory(folder: Path) -> None:
    """Write down the memory of a process and its workers by the number of batches that they have read."""
    torch.set_num_threads(1)
    data, taken = opened(folder / "shards", workers=2), {}
    order = [rows for epoch in range(3) for rows in data.order(epoch, 64, 16)[:].split(64)]
    data.announce(iter(order), further=4)
    for number, rows in enumerate(order, 1):
        data.batch(rows)
        if number % 20 == 0:
            workers = [process.pid for process in multiprocessing.active_children()]
            assert len(workers) == 2
            taken[number] = memory_of([os.getpid(), *workers])
    data.announce(iter(()))
    (folder / "memory.json").write_text(json.dumps([len(order) // 3, taken]))


@pytest.mark.golden
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read as Linux tells it")
def test_memory_does_not_grow_with_batches_and_epochs(tmp_path: Path, fresh_process: Any) -> None:
    contents = [[picture(row % 97, (96, 96)) for row in range(count)] for count in (900, 1500, 1300, 1420)]
    write_tars(tmp_path / "shards", contents)
    ended = fresh_process(watch_memory, tmp_path)
    assert ended.code == 0, ended.said
    epoch, taken = json.loads((tmp_path / "memory.json").read_text())
    assert epoch == 80
    for first, last in ((20, 60), (80, 160), (80, 240)):
        assert taken[str(last)] <= 1.1 * taken[str(first)], taken
