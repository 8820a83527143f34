"""Shards of data that is streamed: found, fetched whole or not at all, kept within a bound, read row by row."""

import io
import itertools
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlabeled.check import UserError
from unlabeled.data.image.streamed import IMAGES
from unlabeled.data.streaming import addresses, cache
from unlabeled.data.streaming.addresses import Shard, expanded, find_shards
from unlabeled.data.streaming.cache import ShardCache, bytes_of
from unlabeled.data.streaming.shards import ShardRows

MAGIC = b"\xff\xd8\xff\xe0"
"""How a JPEG begins; nothing is decoded here."""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "WAIT", 0.001)


def content(shard: int, row: int) -> bytes:
    return MAGIC + f"{shard}/{row}".encode() * (5 + row)


def tar_of(shard: int, rows: int) -> bytes:
    """A tar file in the webdataset layout."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for row in range(rows):
            for ending, data in ((".jpg", content(shard, row)), (".cls", b"7")):
                member = tarfile.TarInfo(f"{row:04}{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def parquet_of(shard: int, rows: int) -> bytes:
    images = [{"bytes": content(shard, row), "path": f"{row}.jpg"} for row in range(rows)]
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": [7] * rows}), stream, row_group_size=3)
    return stream.getvalue()


FORMATS = {"tar": tar_of, "parquet": parquet_of}
LENGTHS = [7, 4, 9]


def files(ending: str) -> dict[str, bytes]:
    return {f"part-{shard:02}.{ending}": FORMATS[ending](shard, rows) for shard, rows in enumerate(LENGTHS)}


def opened(source: str, folder: Path, most: int = 10**6) -> ShardRows:
    return ShardRows(
        find_shards(source).files, ShardCache(folder / "shards", most), folder / "indices", IMAGES
    )


def assert_whole(rows: ShardRows) -> None:
    """All rows, in any order, are those that were written."""
    assert rows.lengths().counts.tolist() == LENGTHS
    for shard, count in enumerate(LENGTHS):
        order = [*range(count)][::-1]
        assert rows.read(shard, order) == [content(shard, row) for row in order]


def test_braces_stand_for_numbers_and_words() -> None:
    assert expanded("s-{08..11}.tar") == ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]
    assert expanded("{a,b}/{1..2}.tar") == ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]
    assert expanded("s3://bucket/plain/") == ["s3://bucket/plain/"]
    with pytest.raises(UserError, match=r"numbers in braces must ascend, got \{3..1\}"):
        expanded("{3..1}")


@pytest.mark.parametrize("ending", FORMATS)
def test_local_shards_are_read_row_by_row(ending: str, tmp_path: Path) -> None:
    for name, data in files(ending).items():
        (tmp_path / name).write_bytes(data)
    rows = opened(str(tmp_path), tmp_path / "own")
    assert_whole(rows)
    assert rows.in_place == (ending == "tar")
    assert rows.name(1, 2) == str(tmp_path / {"tar": "part-01.tar/0002.jpg"}.get(ending, "part-01.parquet#2"))


def test_parts_are_told_by_names_and_the_training_part_is_taken(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / f"{name}.parquet").write_bytes(b"x")
    (tmp_path / "README.md").touch()
    shards = find_shards(str(tmp_path))
    assert [os.path.basename(shard.address)[:7] for shard in shards.files] == ["train-0", "train-0"]
    assert shards.parts == ["train", "test"]
    assert len(find_shards(f"{tmp_path}/test-*.parquet").files) == 1


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").touch()
    with pytest.raises(UserError, match=r"must hold uncompressed .tar or .parquet files .* got 1 .tar.gz"):
        find_shards(str(tmp_path))
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.parquet").touch()
    with pytest.raises(UserError, match=r"must hold shards of one format, got .parquet and .tar"):
        find_shards(str(tmp_path))
    with pytest.raises(UserError, match=r"must hold shards of one format, got .parquet and .tar"):
        find_shards(f"{tmp_path}/{{a.tar,b.parquet}}")
    with pytest.raises(UserError, match=r"nothing.tar does not exist"):
        find_shards(str(tmp_path / "nothing.tar"))


@pytest.mark.parametrize("ending", FORMATS)
def test_shards_in_a_store_of_objects_are_found_and_read(ending: str, tmp_path: Path) -> None:
    """As in s3, by fsspec's file system in memory."""
    store = fsspec.filesystem("memory")
    for name, data in files(ending).items():
        store.pipe(f"/bucket-{ending}/train/{name}", data)
    assert_whole(opened(f"memory://bucket-{ending}/train/", tmp_path))
    store.rm("/", recursive=True)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("status", [503, 0])
def test_two_failures_of_each_shard_change_nothing(
    ending: str, status: int, serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(files(ending))
    server.failures, server.status = 2, status
    assert_whole(opened(f"{server.address}/part-{{00..02}}.{ending}", tmp_path))
    assert min(server.asked[name] for name in files(ending)) >= 3
    assert {path.suffix for path in (tmp_path / "shards").iterdir()} == {
        ".bin" if ending == "parquet" else ".tar"
    }


def test_a_server_without_ranges_gives_whole_files(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(files("parquet"))
    server.ranges = False
    assert_whole(opened(f"{server.address}/part-{{00..02}}.parquet", tmp_path))


def test_a_missing_shard_is_named_at_once(serve: Callable[..., Any], tmp_path: Path) -> None:
    server, began = serve(files("tar")), time.monotonic()
    with pytest.raises(UserError, match=rf"{server.address}/part-03.tar does not exist$"):
        opened(f"{server.address}/part-{{00..03}}.tar", tmp_path)
    rows = opened(f"{server.address}/part-{{00..02}}.tar", tmp_path)
    del server.files["part-01.tar"]
    with pytest.raises(UserError, match=rf"{server.address}/part-01.tar does not exist$"):
        rows.lengths()
    assert time.monotonic() - began < 2


def test_a_server_that_fails_for_good_is_a_lost_connection(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(files("tar"))
    rows = opened(f"{server.address}/part-{{00..02}}.tar", tmp_path)
    server.failures = 99
    with pytest.raises(ConnectionError, match=r"/part-0\d.tar cannot be read after 5 tries: status 503$"):
        rows.lengths()


def test_a_dead_server_is_given_up_within_a_minute(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"^http://127.0.0.1:9/a.tar cannot be read after 5 tries: "):
        find_shards("http://user:secret@127.0.0.1:9/a.tar?signature=secret")
    # One that is silent: two requests of each try, and the pauses between.
    pauses = sum(min(0.5 * 2**number, addresses.MOST_WAIT) for number in range(addresses.TRIES - 1))
    assert 2 * addresses.TRIES * addresses.TIMEOUT + pauses < 60


def test_a_shard_that_is_cut_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    data = tar_of(0, 9)
    (tmp_path / "cut.tar").write_bytes(data[: 512 * 5 + 100])
    with pytest.raises(UserError, match=r"cut.tar must be a readable tar archive"):
        opened(str(tmp_path / "cut.tar"), tmp_path / "own").lengths()
    damaged = bytearray(data)
    damaged[512 * 4 : 512 * 4 + 8] = b"\xff" * 8  # the name in the header of 0001.jpg
    (tmp_path / "bad.tar").write_bytes(damaged)
    rows = opened(str(tmp_path / "bad.tar"), tmp_path / "own")
    counts, skipped = rows.lengths()
    assert counts.tolist() == [8]
    assert [skip.reason for skip in skipped] == ["damaged header: the file behind it is lost"]
    assert rows.read(0, range(8)) == [content(0, row) for row in range(9) if row != 1]
    assert rows.lengths().skipped == skipped  # also as they are kept


def test_tables_without_images_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet must hold images, got the columns text"):
        opened(str(tmp_path), tmp_path / "own").read(0, [0])


def test_the_cache_stays_within_its_bound_and_drops_what_was_read_longest_ago(tmp_path: Path) -> None:
    store, made = ShardCache(tmp_path / "cache", 250), []

    def get(name: str) -> None:
        def make(path: Path) -> None:
            made.append(name)
            path.write_bytes(bytes(100))

        path = store.file(name, 100, make)
        assert path.stat().st_size == 100
        os.utime(path, (moment := next(clock), moment))  # those of the system may be equal

    clock = itertools.count(1)
    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert made == ["a", "b", "c", "b"]
    assert {path.name for path in store.folder.iterdir()} == {"a", "b"}
    with pytest.raises(UserError, match="cache_size must be at least 300 bytes, got 250 bytes"):
        store.file("d", 300, Path.touch)


def test_what_killed_processes_left_is_removed_and_nothing_half_made_stays(tmp_path: Path) -> None:
    store = ShardCache(tmp_path, 1000)
    left = tmp_path / f"a.500.{cache._HOST}.999999999.part"
    other = tmp_path / f"b.500.elsewhere.{os.getpid()}.part"
    left.touch()
    other.touch()
    store.file("c", 400, lambda path: path.write_bytes(b"whole"))
    assert not left.exists() and other.exists() and (tmp_path / "c").read_bytes() == b"whole"

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.file("d", 100, fail)
    assert {path.name for path in tmp_path.iterdir()} == {"c", other.name}


def test_a_shard_that_others_remove_is_fetched_again(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(files("tar"))
    rows = opened(f"{server.address}/part-{{00..02}}.tar", tmp_path, most=45_000)
    assert rows.cache.most < sum(map(len, server.files.values()))
    assert_whole(rows)
    assert_whole(rows)


def test_sizes_are_read_as_they_are_written() -> None:
    assert [bytes_of(text) for text in ("200GB", "1.5 TB", "1MiB", "7", "3k")] == [
        *(200 * 10**9, 15 * 10**11, 2**20, 7, 3000)
    ]
    for text in ("large", "0GB", "-1GB"):
        with pytest.raises(UserError, match=f"cache_size must be a size such as 200GB, got {text}"):
            bytes_of(text)


def test_a_shard_that_changed_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(0, 3))
    assert opened(str(path), tmp_path / "own").lengths().counts.tolist() == [3]
    path.write_bytes(tar_of(0, 5))
    assert opened(str(path), tmp_path / "own").lengths().counts.tolist() == [5]
    assert isinstance(find_shards(str(path)).files[0], Shard)
