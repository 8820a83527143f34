"""Features for other tools: the same numbers, with their paths."""

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import torch

from unlabeled import encoders
from unlabeled.data.images import from_images
from unlabeled.evaluate import embed

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


def test_parquet_holds_paths_and_vectors_that_other_tools_read(tmp_path):
    out = tmp_path / "deep" / "x.parquet"
    features, paths = embed(ENCODER, IMAGES, out=out)
    table = pd.read_parquet(out)
    assert table["path"].tolist() == paths
    assert np.array_equal(np.stack(table["embedding"]), features.numpy())
    assert str(parquet.read_schema(out).field("embedding").type) == "fixed_size_list<element: float>[256]"
    assert [file.name for file in out.parent.iterdir()] == ["x.parquet"]
