"""Features for other tools: the same numbers, with their paths."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from unlabeled import encoders
from unlabeled.data import open_splits
from unlabeled.data.image.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.evaluation import embed, geometry
from unlabeled.evaluation.embedded import embedded
from unlabeled.run import load

IMAGES = from_images(torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8), name="few")
ENCODER = encoders.build("conv4", in_channels=1, image_size=8)


def test_embeddings_are_the_encoders_output_in_evaluation_mode():
    features, paths = embed(ENCODER, IMAGES)
    with torch.no_grad():
        ENCODER.eval()
        expected = ENCODER(ENCODER.inputs(IMAGES.batch(torch.arange(10))))
    assert features.dtype == torch.float32
    assert torch.allclose(features, expected, atol=1e-6)
    assert paths == IMAGES.paths


def test_a_named_map_can_be_embedded():
    layer = next(iter(ENCODER.map_dims))
    features, _ = embed(ENCODER, IMAGES, layer=layer)
    assert len(features) == 10


def test_every_split_is_embedded(tmp_path):
    features, paths = embed(ENCODER, "digits", out=tmp_path / "x.parquet")
    train, test = open_splits("digits")
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert table["path"].tolist() == paths == train.paths + test.paths
    assert table["split"].tolist() == ["train"] * len(train) + ["test"] * len(test)
    assert torch.equal(features[len(train) :], embed(ENCODER, test)[0])


def test_a_run_bears_as_many_broken_images_as_in_its_training(tmp_path):
    for name in ("a", "b"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ValueError, match="max_broken"):
        embed(ENCODER, tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.toml").write_text("method = 'simclr'\n[settings]\nmax_broken = 0.5")
    ENCODER.save(folder / "encoder.safetensors")
    assert len(embed(load(folder), tmp_path)[1]) == 2


def test_parquet_holds_paths_and_vectors_that_other_tools_read(tmp_path):
    out = tmp_path / "deep" / "x.parquet"
    features, paths = embed(ENCODER, IMAGES, out=out)
    table = pd.read_parquet(out)
    assert table["path"].tolist() == paths
    assert set(table["split"]) == {"all"}
    assert np.array_equal(np.stack(table["embedding"]), features.numpy())
    assert str(parquet.read_schema(out).field("embedding").type) == "fixed_size_list<element: float>[256]"
    assert [file.name for file in out.parent.iterdir()] == ["x.parquet"]


KNOWN = from_images(
    torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8),
    torch.tensor([0, 1, -1, 1, 0, 0, 1, 1, 0, 1]),
    name="known",
    classes=["cat", "dog"],
)
KNOWN.groups = torch.arange(10) // 2
LABELS = ["cat", "dog", "", "dog", "cat", "cat", "dog", "dog", "cat", "dog"]


def test_every_ending_holds_the_same_numbers_and_what_is_known(tmp_path):
    expected, _ = embed(ENCODER, KNOWN)
    for ending in ("parquet", "csv", "npz", "npy"):
        features, paths = embed(ENCODER, KNOWN, out=tmp_path / f"x.{ending}")
        assert torch.equal(features, expected) and paths == KNOWN.paths
    table = pd.read_parquet(tmp_path / "x.parquet")
    assert list(table) == ["path", "split", "label", "group", "embedding"]
    assert table["label"].fillna("").tolist() == LABELS
    assert table["group"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    table = pd.read_csv(tmp_path / "x.csv")
    assert np.array_equal(table.iloc[:, 4:].to_numpy(np.float32), expected.numpy())
    assert table["label"].fillna("").tolist() == LABELS
    assert table["path"].tolist() == KNOWN.paths and list(table)[4] == "0"
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["embeddings"], expected.numpy())
        assert arrays["labels"].tolist() == LABELS
        assert arrays["paths"].tolist() == KNOWN.paths and set(arrays["splits"]) == {"all"}
        assert arrays["groups"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected.numpy())


@pytest.mark.parametrize("name", ["x.pkl", "x", "x.csv.gz", "parquet"])
def test_other_endings_are_refused_before_anything_is_computed(tmp_path, name):
    with pytest.raises(ValueError, match=rf"out must end with .parquet, .csv, .npz, .npy, got {name}"):
        embed(None, None, out=tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz", "npy"])
def test_a_file_is_there_whole_or_not_at_all(tmp_path, ending):
    broken = encoders.build("conv4", in_channels=1, image_size=8)
    with torch.no_grad():
        next(broken.trunk.parameters()).fill_(torch.nan)
    (tmp_path / f"x.{ending}").write_text("before")
    with pytest.raises(ValueError, match="features must be finite"):
        embed(broken, IMAGES, out=tmp_path / f"x.{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [f"x.{ending}"]
    assert (tmp_path / f"x.{ending}").read_text() == "before"


def print_peaks(*outs: str) -> None:
    """Print the peak of the memory, in megabytes, of few samples and of many, for each file."""

    class Wide(type(ENCODER)):
        def features(self, x, layer=None):
            return x.flatten(1).float().repeat(1, 128)

    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    encoder.__class__ = Wide

    def peak(out: str, count: int) -> int:
        Path("/proc/self/clear_refs").write_text("5")
        data = from_images(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8), name="many")
        found, _ = embed(encoder, data, out=out)
        assert len(found) == count
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

    for out in outs:
        peak(out, 512)
        print(json.dumps([peak(out, 512), peak(out, 4096)]))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of the memory")
def test_memory_does_not_grow_with_the_samples(tmp_path, fresh_process):
    """128 MB of features in all; eight times as many samples take no 48 MB more."""
    ended = fresh_process(print_peaks, *[str(tmp_path / f"x.{ending}") for ending in ("parquet", "npz")])
    assert ended.code == 0, ended.said
    peaks = [json.loads(line) for line in ended.said.splitlines()]
    assert len(peaks) == 2 and all(many < few + 48 for few, many in peaks), peaks


def test_a_table_opens_in_viewers_with_images_and_a_map(tmp_path):
    lines: list[str] = []
    out = tmp_path / "x.parquet"
    features, _ = embed(
        ENCODER,
        KNOWN,
        out=out,
        features="s1:2x2:whiten:3",
        thumbnails=True,
        coordinates=True,
        progress=lines.append,
    )
    table = parquet.read_table(out)
    assert table.column_names == ["path", "split", "label", "group", "embedding", "x", "y", "image"]
    assert features.shape == (10, 3) and np.array_equal(
        np.stack(table["embedding"].to_numpy()), features.numpy()
    )
    for row, image in enumerate(table["image"].to_pylist()):
        picture = Image.open(io.BytesIO(image["bytes"]))
        assert np.array_equal(np.array(picture), KNOWN.batch(torch.tensor([row]))["image"][0, 0].numpy())
        assert image["path"] == KNOWN.paths[row]
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1)
    assert points.min() >= 0 and points.max() <= 1 and points.std(0).min() > 0
    assert lines == [
        "the features are s1:2x2:whiten:3, scaled by the 8 training images without their labels",
        "x and y: PCA of the features",
    ]


def test_files_that_cannot_be_read_are_said_and_a_readme_is_not(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("L", (8, 8), 20 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    (tmp_path / "README.txt").write_text("Grey images.")
    embedding, exploring = [], []
    embed(ENCODER, tmp_path, progress=embedding.append)
    embedded(ENCODER, tmp_path, progress=exploring.append)
    assert embedding == exploring
    assert len(embedding) == 1
    assert embedding[0].startswith(f"1 skipped, as it cannot be read (first {tmp_path / 'broken.png'}: ")


def test_many_samples_are_laid_out_by_pca_as_few_are():
    points = torch.randn(60, 5) * torch.tensor([9.0, 3, 1, 1, 1])
    few, name = geometry.flat(points[:49]) or pytest.fail("no map")
    many, names = geometry.flat(points[:49], most=40) or pytest.fail("no map")
    assert name == names == "PCA"
    assert np.allclose(np.abs(few - 0.5), np.abs(many - 0.5), atol=1e-3)
    assert (geometry.flat(points, most=59) or pytest.fail("no map"))[1] == "PCA"
    assert (geometry.flat(points, most=60) or pytest.fail("no map"))[1] == "t-SNE"


def test_images_and_maps_need_parquet_and_images(tmp_path):
    with pytest.raises(ValueError, match=r"out must end with .parquet for thumbnails and coordinates, got"):
        embed(ENCODER, KNOWN, out=tmp_path / "x.csv", thumbnails=True)
    with pytest.raises(ValueError, match="layer must be left out with features, got s1"):
        embed(ENCODER, KNOWN, layer="s1", features="s2")
    words = encoders.fitted("words-8-min1", TEXTS := Texts(["a few words", "more words"]), kind="words")
    with pytest.raises(ValueError, match="thumbnails must be of images, got samples of"):
        embed(words, TEXTS, out=tmp_path / "x.parquet", thumbnails=True)


def test_features_are_never_written_over_the_data_or_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", images=np.zeros((4, 8, 8), np.uint8))
    Path("link.npz").symlink_to("data.npz")
    whole = Path("data.npz").read_bytes()
    for data, out in (("data.npz", "./data.npz"), ("link.npz", "data.npz"), ("data.npz", "link.npz")):
        with pytest.raises(
            ValueError, match=f"out must be another file than one of the data, got {Path(out)}"
        ):
            embed(ENCODER, data, out=out)
    Path("arrays").mkdir()
    for number in range(2):
        np.save(f"arrays/{number}.npy", np.full((8, 8), number, np.uint8))
    with pytest.raises(
        ValueError, match=r"out must be a new file, or one outside the data arrays, got arrays/1.npy"
    ):
        embed(ENCODER, "arrays", out="arrays/1.npy")
    Path("run").mkdir()
    for name in ("run.toml", "samples.npy"):
        Path("run", name).touch()
    with pytest.raises(ValueError, match=r"out must be no file that a run consists of, got run/samples.npy"):
        embed(ENCODER, "data.npz", out="run/samples.npy")
    assert Path("data.npz").read_bytes() == whole and np.load("arrays/1.npy").shape == (8, 8)
    assert (
        len(embed(ENCODER, "data.npz", out="new.npz")[0])
        == len(embed(ENCODER, "data.npz", out="new.npz")[0])
        == 4
    )
