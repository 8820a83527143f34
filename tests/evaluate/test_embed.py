"""Features for other tools: the same numbers, with their paths."""

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from unlabeled import encoders
from unlabeled.data import open_splits
from unlabeled.data.images import from_images
from unlabeled.evaluate import embed
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
    (folder / "run.toml").write_text("[settings]\nmax_broken = 0.5")
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
