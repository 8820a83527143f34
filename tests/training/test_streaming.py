"""Trainings on streamed data: resumed to the bit, the same on several processes, refused where they cannot work."""

import csv
import gzip
import io
import json
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.multiprocessing.spawn import start_processes

from unlabeled import encoders, methods, pretrain
from unlabeled.check import UserError
from unlabeled.data.image import store
from unlabeled.data.streaming import addresses
from unlabeled.method import Batch, Method
from unlabeled.run import CHECKPOINT, SAMPLES, read_checkpoint, read_config
from unlabeled.training import checkpoints
from unlabeled.worlds import tones

pytestmark = pytest.mark.usefixtures("small_networks", "small_sequences")

LENGTHS = [40, 25, 33, 30, 28, 44]
FAST: dict[str, Any] = {
    **{"batch_size": 32, "epochs": 3, "encoder": "conv4", "image_size": 8, "quiet": True, "stream": True},
    **{"projection_dim": 8, "holdout": 0.05},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tar files of 200 coloured images, of which one is broken."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for shard, length in enumerate(LENGTHS):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as archive:
            for row in range(length):
                stream = io.BytesIO()
                pixels = generator.integers(0, 256, (1, 1, 3)) // 2 + generator.integers(0, 128, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(stream, "png")
                content = stream.getvalue()[: 50 if (shard, row) == (1, 7) else None]
                member = tarfile.TarInfo(f"{row:04}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def state(folder: Path) -> dict[str, bytes]:
    """Every bit of the method and the optimizer at the end of a run."""
    groups, _ = read_checkpoint(folder / CHECKPOINT)
    return {
        f"{group}/{name}": value.numpy().tobytes()
        for group, entries in groups.items()
        for name, value in entries.items()
    }


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tar files of 200 sounds of up to a fifth of a second, of which one is broken."""
    folder, generator = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for shard, length in enumerate(LENGTHS):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as archive:
            for row in range(length):
                wave = np.sin(np.arange(1000 + 20 * row) * generator.uniform(0.05, 1)) / 2
                soundfile.write(stream := io.BytesIO(), wave, 8000, format="WAV")
                content = stream.getvalue()[: 20 if (shard, row) == (1, 7) else None]
                member = tarfile.TarInfo(f"{row:04}.wav")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed lines of 200 texts of one or two sentences, of which one is broken."""
    folder, generator = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = np.array(["".join(generator.choice(list("abcdefgh"), 4)) for _ in range(50)])
    for shard, length in enumerate(LENGTHS):
        lines = []
        for row in range(length):
            text = " ".join(
                f"{' '.join(generator.choice(words, 9)).capitalize()}." for _ in range(1 + row % 2)
            )
            lines.append("{broken" if (shard, row) == (1, 7) else json.dumps({"text": text}))
        (folder / f"part-{shard}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


TRAININGS = {
    "image": ("simclr", FAST),
    "audio": (
        "apc",
        {"batch_size": 32, "epochs": 3, "quiet": True, "stream": True, "holdout": 0.05, "encoder": "gru1-16"}
        | {"crop_seconds": 0.12},
    ),
    "text": (
        "gpt",
        {
            "batch_size": 32,
            "epochs": 3,
            "quiet": True,
            "stream": True,
            "holdout": 0.05,
            "encoder": "gpt-tiny",
        },
    ),
}
"""A method for data of each kind, and its options."""


@pytest.fixture
def source(request: pytest.FixtureRequest, kind: str) -> Path:
    return request.getfixturevalue({"image": "shards", "audio": "sounds", "text": "texts"}[kind])


def killed(kind: str, source: Path, out: Path) -> None:
    """Train until the seventh step and end as by kill -9."""
    method, options = TRAININGS[kind]
    checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.0

    def kill(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    pretrain(method, source, out=out, workers=1, on_step=kill, **options)


@pytest.mark.parametrize("kind", ["image", "audio", pytest.param("text", marks=pytest.mark.golden)])
def test_a_run_killed_amid_an_epoch_resumes_to_the_same_bits_with_other_workers(
    kind: str, source: Path, tmp_path: Path
) -> None:
    method, options = TRAININGS[kind]
    whole = pretrain(method, source, out=tmp_path / "whole", workers=2, **options)
    process = multiprocessing.get_context("fork").Process(
        target=killed, args=(kind, source, tmp_path / "part")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    position = read_checkpoint(tmp_path / "part" / CHECKPOINT)[1]
    assert position["step"] == 7 and whole.config["settings"]["pieces"] == 32
    assert 7 % (whole.config["data"]["samples"] // 32)  # amid an epoch
    run = pretrain(method, source, out=tmp_path / "part", resume=True, workers=3, quiet=True)
    assert run.history[-1]["step"] == 15 and state(run.path) == state(whole.path)


@pytest.mark.parametrize("kind", TRAININGS)
def test_what_was_read_is_written_down(kind: str, source: Path, tmp_path: Path) -> None:
    method, options = TRAININGS[kind]
    run = pretrain(method, source, out=tmp_path / "run", workers=1, **options)
    about = read_config(run.path / "run.toml")["data"]
    assert (about["samples"], about["shards"], about["held_out"]) == (200, 6, 10)
    with (run.path / "skipped.csv").open(newline="") as file:
        place = {"image": ".tar/0007.png", "audio": ".tar/0007.wav", "text": ".jsonl.gz#7"}[kind]
        assert [row[0] for row in csv.reader(file)] == ["path", f"{source}/part-1{place}"]
    assert run.digests is None and not (run.path / SAMPLES).exists()
    assert run.history[-1]["holdout_loss"] > 0


def test_other_shards_are_refused_when_a_run_is_resumed(shards: Path, tmp_path: Path) -> None:
    run = pretrain("simclr", shards, out=tmp_path / "run", workers=1, **FAST | {"epochs": 1})
    with pytest.raises(UserError, match=r"samples of the data must be 200 to resume .*, got 160"):
        pretrain("simclr", f"{shards}/part-[1-5].tar", out=run.path, resume=True, epochs=2, quiet=True)


def test_methods_that_need_all_samples_are_refused(shards: Path, tmp_path: Path) -> None:
    for method, message in (
        ("deepcluster", "stream must be off for a method that reads all samples"),
        ("exemplar", "stream must be off for a method that reads all samples"),
    ):
        options = {name: value for name, value in FAST.items() if name != "projection_dim"}
        with pytest.raises(UserError, match=message):
            pretrain(method, shards, out=tmp_path / method, workers=1, **options)


def test_a_server_that_dies_ends_the_training_with_the_way_to_resume(
    shards: Path, tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "WAIT", 0.001)
    server = serve({path.name: path.read_bytes() for path in shards.iterdir()})
    source = f"{server.address}/part-{{0..5}}.tar"

    def die(step: int) -> None:
        if step == 3:
            server.failures = 10**9
            for kept in (tmp_path / "cache" / "shards").glob("*.tar"):
                kept.unlink()

    out = tmp_path / "run"
    said = rf"part-\d.tar cannot be read after 5 tries: status 503; .* --resume continues from (it|{out})"
    with pytest.raises(ConnectionError, match=said):
        pretrain("simclr", source, out=out, workers=1, on_step=die, **FAST)
    server.failures = 0
    run = pretrain("simclr", source, out=out, resume=True, workers=1, quiet=True)
    assert run.history[-1]["step"] == 15


def test_vectors_of_more_samples_than_memory_holds_are_refused() -> None:
    from unlabeled.parts.memory_bank import MemoryBank

    with pytest.raises(UserError, match=r"needs 512,000 GB for 1,000,000,000,000 samples, more than half of"):
        MemoryBank(128, 0.5).fill(10**12)


class Shown(Method):
    """A loss of each sample alone, which remembers what it was shown."""

    def __init__(self) -> None:
        layers = nn.Flatten(), nn.Linear(3 * 8**2, 4)
        super().__init__(encoders.wrap(nn.Sequential(*layers), image_size=8))
        self.shown: list[torch.Tensor] = []

    def forward(self, batch: Batch) -> torch.Tensor:
        self.shown.append(batch["index"])
        return self.encoder(self.encoder.inputs(batch)).square().mean()


def show(rank: int, count: int, workers: int, shards: Path, folder: Path) -> None:
    """Write down the rows that one of so many processes is shown, and where its replaced images were."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "WORLD_SIZE": str(count)}
    if count > 1:
        meeting = f"file://{folder / 'meeting'}"
        dist.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=count, rank=rank)
    options = {name: FAST[name] for name in ("batch_size", "epochs", "quiet", "stream")} | {"holdout": 0.0}
    method = Shown()
    pretrain(method, shards, out=folder / "run", device="cpu", workers=workers, **options)
    torch.save(torch.stack(method.shown), folder / f"{rank}.pt")
    if count > 1:
        dist.destroy_process_group()


def show_all(count: int, *rest: Any) -> None:
    start_processes(show, (count, *rest), nprocs=count, start_method="fork")


@pytest.mark.golden
def test_one_two_and_four_processes_with_any_workers_are_shown_the_same_batches(
    shards: Path, tmp_path: Path, fresh_process: Any
) -> None:
    batches = []
    for count, workers in ((1, 1), (1, 3), (2, 2), (4, 1), (4, 2)):
        folder = tmp_path / f"{count}-{workers}"
        folder.mkdir()
        ended = fresh_process(show_all, count, workers, shards, folder)
        assert ended.code == 0, ended.said
        batches.append(torch.cat([torch.load(folder / f"{rank}.pt") for rank in range(count)], 1))
        assert (folder / "run" / "skipped.csv").read_text().count("part-1.tar/0007.png") == 1
    assert all(torch.equal(one, batches[0]) for one in batches)
    for epoch in batches[0].split(6):
        assert epoch.shape == (6, 32) and len(epoch.unique()) == 192 > 200 - 32


def names(kind: str) -> list[str]:
    return [name for name in methods.names() if methods.describe(name).kind == kind]


@pytest.mark.golden
@pytest.mark.parametrize("name", names("audio"))
def test_every_method_of_sounds_trains_on_streamed_ones(name: str, tmp_path: Path) -> None:
    sounds, rows = tones.make(80, 0), []
    for wave, length in zip(sounds["waveform"].numpy(), sounds["length"].tolist()):
        soundfile.write(stream := io.BytesIO(), wave[:length], tones.SAMPLE_RATE, format="FLAC")
        rows.append({"bytes": stream.getvalue(), "path": None})
    for shard in range(4):
        pq.write_table(pa.table({"audio": rows[shard::4]}), tmp_path / f"{shard}.parquet")
    options = methods.load(name).smallest
    run = pretrain(
        name, tmp_path, out=tmp_path / "run", stream=True, steps=2, quiet=True, workers=1, **options
    )
    assert run.history[-1]["step"] == 2


OF_ALL = {name: methods.load(name).encoder_kind == "words" for name in names("text")}
"""Whether a method of texts counts the words of all of them first."""


@pytest.mark.golden
@pytest.mark.parametrize("name", OF_ALL)
def test_every_method_of_texts_trains_on_streamed_ones_or_says_why_not(
    name: str, texts: Path, tmp_path: Path
) -> None:
    options = dict(methods.load(name).smallest) | {"steps": 2, "stream": True, "quiet": True, "workers": 1}
    if OF_ALL[name]:
        with pytest.raises(UserError, match="stream must be off for word vectors, whose methods count"):
            pretrain(name, texts, out=tmp_path / "run", **options)
        return
    if name == "bert":
        with pytest.raises(UserError, match=r"next_sentence must be off for streamed texts \(--no-next-s"):
            pretrain(name, texts, out=tmp_path / "run", next_sentence=True, **options)
        options["next_sentence"] = False
    run = pretrain(name, texts, out=tmp_path / "run", **options)
    assert run.history[-1]["step"] == 2


def test_data_of_other_kinds_and_readings_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="stream must be left out for data of kind video, as it is of image and"
    ):
        pretrain("videomae", "balls", stream=True, out=tmp_path)
    for options, message in (
        ({"group": "folder"}, "group must be left out with stream, got folder"),
        ({"pieces": 5}, "pieces must be a multiple of the 1 processes that divides the batch of 32, got 5"),
        ({"cache_size": "many"}, "cache_size must be a size such as 200GB, got many"),
    ):
        with pytest.raises(UserError, match=message):
            pretrain("simclr", shards, out=tmp_path / "run", **FAST | options)
    with pytest.raises(UserError, match="data must be a path or an address to be streamed, got Tensor"):
        pretrain("simclr", torch.zeros(60, 3, 8, 8, dtype=torch.uint8), out=tmp_path / "run", **FAST)
    with pytest.raises(
        UserError, match=r"data at an address must be shards that training streams \(--stream\)"
    ):
        pretrain("simclr", "s3://bucket/train/", out=tmp_path / "run")


def test_images_whose_decoded_copies_do_not_fit_the_disk_are_to_be_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{number}.png")
    monkeypatch.setattr(store, "_ESTIMATED", 4)
    monkeypatch.setattr(os, "fstatvfs", lambda file: os.statvfs_result([1, 1, 9, 9, 9000, 9, 9, 9, 9, 9]))
    with pytest.raises(
        UserError, match=r"must be streamed \(--stream, .* take 24.6 kB and the disk of the cache"
    ):
        pretrain("simclr", tmp_path / "images", out=tmp_path / "run", quiet=True)
