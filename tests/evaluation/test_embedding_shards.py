"""Folders of features: those of one file, whole or not at all, shared by processes, and only of one encoder."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data.image.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.evaluation import embed, embed_shards, embedding_shards
from unlabeled.evaluation.embedding_shards import ABOUT, Written

ENCODER = encoders.build("conv4", in_channels=3, image_size=8)
LENGTHS = [5, 3, 4]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedding_shards, "SAMPLES", 4)
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    for names in embedding_shards.NUMBERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten images."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(10):
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Tar files of the numbers of images in LENGTHS, of which the second one of the first is broken."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard, length in enumerate(LENGTHS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for row in range(length):
                pixels = np.random.default_rng([shard, row]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(stream := io.BytesIO(), "png")
                content = b"no image" if (shard, row) == (0, 1) else stream.getvalue()
                member = tarfile.TarInfo(f"{row}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder


def table(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])


def matrix(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.stack(table(folder)["embedding"].tolist()))


def run_as(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(processes))


def test_files_together_are_what_one_file_would_be(pictures: Path, tmp_path: Path) -> None:
    written = embed_shards(ENCODER, pictures, out=tmp_path / "out")
    features, paths = embed(ENCODER, pictures)
    assert written == Written(3, 3, 10, features.shape[1])
    assert table(tmp_path / "out")["path"].tolist() == paths
    torch.testing.assert_close(matrix(tmp_path / "out"), features)


def test_a_second_call_writes_what_is_missing_and_nothing_else(pictures: Path, tmp_path: Path) -> None:
    embed_shards(ENCODER, pictures, out=tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    whole, lost = matrix(tmp_path / "out"), tmp_path / "out" / "all-00001.parquet"
    lost.unlink()
    (tmp_path / "out" / ".all-00001.parquet.abcdefgh").write_text("of a writer that was killed")
    lines: list[str] = []
    embed_shards(ENCODER, pictures, out=tmp_path / "out", progress=lines.append)
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    assert lines == ["all-00001.parquet: 1 of 1 files"]
    assert {file for file in after if after[file] != before[file]} == {lost}
    assert torch.equal(matrix(tmp_path / "out"), whole)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {ABOUT, *(file.name for file in after)}


@pytest.mark.parametrize("stream", [False, True])
def test_processes_share_the_files(
    pictures: Path, shards: Path, tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = (
        (shards if stream else pictures),
        {"stream": stream} | ({"workers": 0} if stream else {}),
    )
    embed_shards(ENCODER, source, out=tmp_path / "one", **options)
    files = []
    for rank in range(2):
        run_as(monkeypatch, rank, 2)
        assert embed_shards(ENCODER, source, out=tmp_path / "two", **options).files == [2, 3][rank]
        files.append({file.name for file in (tmp_path / "two").glob("*.parquet")})
    assert len(files[0]) == 2 and len(files[1] - files[0]) == 1
    pd.testing.assert_frame_equal(table(tmp_path / "one"), table(tmp_path / "two"))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_have_the_features_of_the_files_without_the_broken_ones(
    shards: Path, tmp_path: Path, workers: int
) -> None:
    written = embed_shards(ENCODER, shards, out=tmp_path / "out", stream=True, workers=workers)
    assert written[:3] == (3, 3, sum(LENGTHS) - 1)
    names = [
        f"{shards}/{shard}.tar/{row}.png" for shard, length in enumerate(LENGTHS) for row in range(length)
    ]
    assert table(tmp_path / "out")["path"].tolist() == [
        name for name in names if not name.endswith("0.tar/1.png")
    ]
    skipped = pd.read_csv(tmp_path / "out" / "shard-00000.skipped.csv")
    assert skipped["path"].tolist() == [f"{shards}/0.tar/1.png"]
    assert len(list((tmp_path / "out").glob("*.csv"))) == 1
    arrays = [
        torch.from_numpy(np.random.default_rng([shard, row]).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        for shard, length in enumerate(LENGTHS)
        for row in range(length)
        if (shard, row) != (0, 1)
    ]
    expected, _ = embed(ENCODER, from_images(torch.stack(arrays).permute(0, 3, 1, 2), name="expected"))
    torch.testing.assert_close(matrix(tmp_path / "out"), expected)


def test_streamed_sounds_have_the_features_of_the_files_at_the_rate_of_the_encoder(tmp_path: Path) -> None:
    encoder = encoders.build("gru1-16", kind="audio", sample_rate=4000)
    generator = np.random.default_rng(0)
    waves = [generator.uniform(-0.5, 0.5, 1600 + 100 * row).astype(np.float32) for row in range(8)]
    (tmp_path / "files").mkdir()
    rows = []
    for row, wave in enumerate(waves):
        soundfile.write(tmp_path / "files" / f"{row}.wav", wave, 8000)
        rows.append((tmp_path / "files" / f"{row}.wav").read_bytes())
    rows.insert(3, b"no sound")
    for shard in range(2):
        pq.write_table(pa.table({"audio": rows[shard::2]}), tmp_path / f"{shard}.parquet")
    written = embed_shards(encoder, f"{tmp_path}/*.parquet", out=tmp_path / "out", stream=True, workers=1)
    assert written[:3] == (2, 2, 8)
    expected, _ = embed(encoder, tmp_path / "files")
    torch.testing.assert_close(matrix(tmp_path / "out"), expected[[0, 2, 3, 5, 7, 1, 4, 6]])
    skipped = pd.read_csv(tmp_path / "out" / "shard-00001.skipped.csv")
    assert skipped["path"].tolist() == [f"{tmp_path}/1.parquet#1"]


def test_streamed_texts_have_the_features_of_the_texts(tmp_path: Path) -> None:
    texts = [f"Text {row}. " + "word and other words " * row for row in range(7)]
    encoder = encoders.fitted("bert-tiny", Texts(texts), kind="text", length=24)
    for shard in range(2):
        lines = [json.dumps({"text": text}) for text in texts[shard::2]]
        (tmp_path / f"{shard}.jsonl").write_text("\n".join(lines))
    written = embed_shards(encoder, tmp_path, out=tmp_path / "out", stream=True, workers=1)
    assert written[:3] == (2, 2, 7)
    expected, _ = embed(encoder, Texts(texts))
    torch.testing.assert_close(matrix(tmp_path / "out"), expected[[0, 2, 4, 6, 1, 3, 5]])


def test_a_folder_of_another_encoder_or_of_other_data_is_refused(pictures: Path, tmp_path: Path) -> None:
    embed_shards(ENCODER, pictures, out=tmp_path / "out")
    other = encoders.build("conv4", in_channels=3, image_size=8)
    with pytest.raises(UserError, match="out must be a folder with the same encoder, got"):
        embed_shards(other, pictures, out=tmp_path / "out")
    (pictures / "9.png").unlink()
    with pytest.raises(UserError, match="out must be a folder with the same data, got"):
        embed_shards(ENCODER, pictures, out=tmp_path / "out")
    with pytest.raises(UserError, match="out must be a new or empty folder, or one that embed wrote"):
        embed_shards(ENCODER, pictures, out=pictures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "x.parquet"}, "out must be a folder, got x.parquet"),
        ({"out": "x", "workers": 2}, "workers must be left out without stream"),
        ({"out": "x", "stream": True, "label": "kind"}, "label must be left out with stream"),
        ({"out": "x", "stream": True, "features": "layer1"}, "features must be the run's own with stream"),
    ],
)
def test_options_that_do_not_fit_are_refused(shards: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        embed_shards(ENCODER, shards, **options)
