"""The cache: decoded once, trusted only when whole, never in the way."""

import json
import logging
import multiprocessing
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import Data, cache, open_data
from unlabeled.data.image import store


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for number in range(40):
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (8 + number % 3, 10, 3) if number > 20 else (8 + number % 3, 10)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    (root / "a" / "broken.png").touch()
    return root


def same(first: Data, second: Data) -> bool:
    assert first.labels is not None and second.labels is not None
    return (
        torch.equal(first.pixels, second.pixels)
        and torch.equal(first.sizes, second.sizes)
        and torch.equal(first.labels, second.labels)
        and (first.paths, first.skipped, first.classes) == (second.paths, second.skipped, second.classes)
    )


def no_decoding(monkeypatch) -> None:
    monkeypatch.setattr(store, "decode_all", lambda *arguments: pytest.fail("decoded again"))


def only(cache_folder: Path) -> Path:
    (entry,) = cache_folder.iterdir()
    return entry


def test_second_start_decodes_nothing_and_gives_the_same(folder, monkeypatch):
    first = open_data(folder)
    assert len(first) == 40 and len(first.skipped) == 1
    no_decoding(monkeypatch)
    assert same(first, open_data(folder))


def test_a_folder_that_moved_is_decoded_again(folder):
    first = open_data(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    second = open_data(moved)
    assert second.paths[0] == str(moved / "a" / "00.png") and torch.equal(first.pixels, second.pixels)


def test_images_are_decoded_again_when_a_further_decoder_is_installed(folder, cache_folder, monkeypatch):
    open_data(folder)
    monkeypatch.setattr(store, "OPTIONAL", [*store.OPTIONAL, "another"])
    open_data(folder)
    assert len(list(cache_folder.iterdir())) == 2


def test_what_an_older_version_kept_is_decoded_again(folder, cache_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_VERSION", cache._VERSION - 1)
        first = open_data(folder)
    second = open_data(folder)
    assert same(first, second) and len(list(cache_folder.iterdir())) == 2


def bitmap(path: Path, grey: int) -> None:
    """An image whose file says nothing of its content by its size or time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)
    os.utime(path, (0, 0))


def test_folders_that_look_alike_keep_their_own_images(tmp_path, monkeypatch):
    for folder, grey in (("one", 1), ("two", 2)):
        bitmap(tmp_path / folder / "x.bmp", grey)
    assert [open_data(tmp_path / name).pixels[0].item() for name in ("one", "two")] == [1, 2]
    monkeypatch.chdir(tmp_path / "one")
    no_decoding(monkeypatch)
    assert open_data(".").pixels[0] == 1, "another way to the same folder is no other folder"


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path):
    bitmap(tmp_path / "data" / "x.bmp", 1)
    assert open_data(tmp_path / "data").pixels[0] == 1
    bitmap(tmp_path / "data" / "x.bmp", 2)
    assert open_data(tmp_path / "data").pixels[0] == 2


def test_a_renamed_folder_is_seen_though_no_file_in_it_changed(tmp_path):
    for place in ("a/old", "b"):
        bitmap(tmp_path / "data" / place / "x.bmp", 1)
    open_data(tmp_path / "data")
    (tmp_path / "data" / "a" / "old").rename(tmp_path / "data" / "a" / "new")
    assert open_data(tmp_path / "data").paths[0] == str(tmp_path / "data" / "a" / "new" / "x.bmp")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError("no memory")])
def test_what_could_not_be_read_this_time_is_read_the_next(folder, cache_folder, error, monkeypatch):
    def refuse(path, *rest, opened=Path.open, **options):
        if path.name == "00.png":
            raise error
        return opened(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        data = open_data(folder)
    assert len(data) == 39 and list(cache_folder.iterdir()) == []
    assert (str(folder / "a" / "00.png"), str(error.args[-1])) in data.skipped
    assert len(open_data(folder)) == 40 and only(cache_folder)


def test_without_a_home_the_images_are_kept_in_memory(folder, caplog, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNLABELED_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    with caplog.at_level(logging.WARNING, "unlabeled.data"):
        assert len(open_data(folder)) == len(open_data(folder)) == 40
    assert len(caplog.records) == 1 and "home directory" in caplog.text and "kept in memory" in caplog.text


def test_without_a_cache_the_images_are_the_same(folder, cache_folder):
    plain = open_data(folder, cache=False)
    assert not cache_folder.exists()
    assert same(plain, open_data(folder))


def test_the_cache_can_lie_elsewhere(folder, cache_folder, tmp_path):
    open_data(folder, cache=tmp_path / "mine")
    assert only(tmp_path / "mine").is_dir() and not cache_folder.exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "pixels missing": lambda entry: (entry / "pixels.bin").unlink(),
    "index missing": lambda entry: (entry / "index.json").unlink(),
    "pixels cut": lambda entry: os.truncate(entry / "pixels.bin", 100),
    "index cut": lambda entry: os.truncate(entry / "index.json", 100),
    "index empty": lambda entry: os.truncate(entry / "index.json", 0),
    "a bit of the pixels flipped": lambda entry: flip(entry / "pixels.bin"),
    "a bit of the index flipped": lambda entry: flip(entry / "index.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt(folder, cache_folder, damage, monkeypatch):
    first = open_data(folder)
    DAMAGES[damage](only(cache_folder))
    assert same(first, open_data(folder))
    no_decoding(monkeypatch)
    assert same(first, open_data(folder)) and only(cache_folder)


def test_an_interrupted_build_leaves_nothing_that_counts(folder, cache_folder):
    def interrupt(done: int, total: int | None) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_data(folder, progress=interrupt)
    assert list(cache_folder.iterdir()) == []
    assert len(open_data(folder)) == 40


def test_what_a_killed_build_left_is_swept_a_day_later(folder, cache_folder):
    for name, age in (("building-old", 100_000), ("building-new", 0)):
        path = cache_folder / name / "pixels.bin"
        path.parent.mkdir(parents=True)
        path.touch()
        for old in (path, path.parent):
            os.utime(old, (old.stat().st_atime - age, old.stat().st_mtime - age))
    open_data(folder)
    assert sorted(path.name[:12] for path in cache_folder.glob("building-*")) == ["building-new"]


def test_changed_files_and_other_options_give_other_images(folder):
    first = open_data(folder)
    path = folder / "a" / "00.png"
    time = path.stat().st_mtime_ns
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(time + 1, time + 1))
    assert torch.equal(
        open_data(folder).batch(torch.tensor([0]))["image"][0, 0, :8, :10], torch.from_numpy(pixels)
    )
    path.rename(path.with_name("x.png"))
    assert open_data(folder).paths[19] == str(folder / "a" / "x.png")
    path.with_name("x.png").unlink()
    assert len(open_data(folder)) == 39
    assert open_data(folder, store_size=4).sizes.amin() == 4
    assert open_data(folder, channels=1).channels == 1
    assert first.channels == 3


def test_memory_map_equals_memory(folder, monkeypatch):
    first = open_data(folder)
    mapped = []
    monkeypatch.setattr(cache, "available_memory", lambda: 3 * len(first.pixels) - 3)
    monkeypatch.setattr(np, "fromfile", lambda *arguments: pytest.fail("read as a whole"))
    monkeypatch.setattr(
        np, "memmap", lambda *rest, original=np.memmap: mapped.append(rest) or original(*rest)
    )
    no_decoding(monkeypatch)
    second = open_data(folder)
    assert mapped and same(first, second)
    index = torch.tensor([3, 39, 0])
    assert all(torch.equal(first.batch(index)[key], value) for key, value in second.batch(index).items())


def test_large_caches_are_checked_by_blocks(monkeypatch):
    monkeypatch.setattr(cache, "_WHOLE", 1000)
    monkeypatch.setattr(cache, "_BLOCK", 10)
    monkeypatch.setattr(cache, "_BLOCKS", 5)
    pixels = np.zeros(1000, np.uint8)
    whole = cache._checksum(pixels)
    for place, seen in ((0, True), (999, True), (251, True), (500, True), (100, False)):
        changed = pixels.copy()
        changed[place] = 1
        assert (cache._checksum(changed) != whole) == seen
    assert cache._checksum(pixels[:999]) == zlib.crc32(bytes(999))


@pytest.mark.parametrize("where", ["no folder can be made", "the disk is full"])
def test_an_unwritable_cache_keeps_the_images_in_memory_and_says_so_once(
    folder, tmp_path, where, caplog, monkeypatch
):
    place = tmp_path / where
    if where == "the disk is full":

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            json, "dumps", lambda value, original=json.dumps: full() if "bytes" in value else original(value)
        )
    else:
        place.write_text("a file is in the way")
    with caplog.at_level(logging.WARNING, "unlabeled.data"):
        first, second = open_data(folder, cache=place), open_data(folder, cache=place)
    assert len(caplog.records) == 1 and "kept in memory" in caplog.text
    monkeypatch.undo()
    assert same(first, open_data(folder)) and same(second, first)


def report(folder: Path, start, results) -> None:
    start.wait()
    data = open_data(folder)
    assert data.labels is not None
    results.put((zlib.crc32(data.pixels.numpy().tobytes()), data.paths, data.labels.tolist()))


def test_processes_that_build_at_once_agree(folder, cache_folder):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    processes = [context.Process(target=report, args=(folder, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    here = open_data(folder)
    assert here.labels is not None
    assert found == [(zlib.crc32(here.pixels.numpy().tobytes()), here.paths, here.labels.tolist())] * 3
    assert only(cache_folder)


def test_a_build_that_loses_the_race_still_has_its_images(folder, cache_folder):
    """Another process builds the whole cache while this one is half way."""
    others = []

    def meanwhile(done: int, total: int | None) -> None:
        if done == 20:
            others.append(open_data(folder))

    mine = open_data(folder, progress=meanwhile)
    assert same(mine, others[0]) and only(cache_folder)
    assert same(mine, open_data(folder))


def test_progress_counts_to_the_number_of_images(folder):
    calls: list[tuple[int, int | None]] = []
    open_data(folder, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 41) for done in range(1, 42)]


def test_the_number_of_workers_changes_nothing(folder, tmp_path):
    assert same(
        open_data(folder, workers=1, cache=tmp_path / "1"), open_data(folder, workers=4, cache=tmp_path / "4")
    )


def test_available_memory_is_a_number_of_bytes():
    assert 2**20 < cache.available_memory() < 2**50


@pytest.mark.parametrize("kind", ["grey", "colour", "mixed", "twelve bits", "large"])
def test_every_verb_reads_what_the_first_one_decoded(tmp_path, kind, monkeypatch):
    """Also where the encoder has other channels than the images, or was trained on pixels of more than 8 bits."""
    from unlabeled import embed, encoders, evaluate, pretrain, report

    generator = np.random.default_rng(0)
    for number in range(16):
        colour = kind == "colour" or (kind == "mixed" and number % 3)
        side = 300 if kind == "large" else 16
        pixels = generator.integers(0, 256, (side, side, 3) if colour else (side, side))
        pixels = pixels.astype(np.uint16) * 16 if kind == "twelve bits" else pixels.astype(np.uint8)
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    decoded = []
    counted = store.decode_all

    def count(*arguments):
        decoded.append(1)
        return counted(*arguments)

    monkeypatch.setattr(store, "decode_all", count)
    how = {"steps": 1, "batch_size": 4, "encoder": "conv4", "image_size": 16, "quiet": True}
    run = pretrain("simclr", tmp_path / "data", out=tmp_path / "run", **how)
    evaluate(run, tmp_path / "data", probe=["knn"], controls=["raw"])
    embed(run, tmp_path / "data")
    report(run)
    for channels in (1, 3):
        embed(encoders.build("conv4", in_channels=channels, image_size=16), tmp_path / "data")
    assert len(decoded) == 1
    if kind == "twelve bits":
        assert run.encoder.config["levels"] == run.reading["levels"] == {"integers": [[0.0, 4095.0]]}
        for path in (tmp_path / "data").rglob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)) // 8).save(path)
        assert open_data(tmp_path / "data").levels == {"integers": [[0.0, 511.0]]}
        assert open_data(tmp_path / "data", **run.reading).pixels.max() <= 32


def test_converted_channels_are_those_of_decoding_alone(folder):
    grey = open_data(folder, channels=1)
    colour = open_data(folder)
    for row in (0, 3, 25, 39):
        expected = np.asarray(Image.open(grey.paths[row]).convert("L"))
        height, width = grey.sizes[row].tolist()
        one = grey.batch(torch.tensor([row]))["image"][0, 0, :height, :width]
        assert np.array_equal(one.numpy(), expected)
        three = colour.batch(torch.tensor([row]))["image"][0, :, :height, :width]
        assert np.array_equal(
            three.numpy(), np.asarray(Image.open(colour.paths[row]).convert("RGB")).transpose(2, 0, 1)
        )
