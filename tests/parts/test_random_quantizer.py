"""Random codes: the nearest direction by a loop, without weights, and how many are in use."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.parts import random_quantizer
from unlabeled.parts.masked_codes import entropy
from unlabeled.parts.random_quantizer import RandomQuantizer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_code_is_the_nearest_unit_vector_to_the_normalized_projection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantizer, vectors = RandomQuantizer(6, codebooks=2, codes=5, code_dim=3), torch.randn(30, 6)
    expected = [
        [
            int((words - F.normalize(projection @ vector, dim=0)).norm(dim=1).argmin())
            for projection, words in zip(quantizer.projections, quantizer.words)
        ]
        for vector in vectors
    ]
    assert quantizer(vectors).tolist() == expected
    monkeypatch.setattr(random_quantizer, "_ENTRIES", 40)
    assert quantizer(vectors).tolist() == expected, "however few are compared at a time"
    assert len({tuple(row) for row in expected}) > 5


def test_scale_and_mixed_precision_change_no_code() -> None:
    quantizer, vectors = RandomQuantizer(16, 1, 64, 8), torch.randn(50, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(7 * vectors), quantizer(vectors))
    assert torch.equal(quantizer(7 * vectors), quantizer(vectors))


def test_nothing_is_learned_and_everything_is_saved() -> None:
    quantizer = RandomQuantizer(6, 2, 5, 3)
    assert not list(quantizer.parameters())
    assert {name: tuple(value.shape) for name, value in quantizer.state_dict().items()} == {
        "projections": (2, 3, 6), "words": (2, 5, 3),
    }  # fmt: skip
    torch.testing.assert_close(quantizer.words.norm(dim=2), torch.ones(2, 5))
    assert quantizer.projections.abs().max() < (6 / 9) ** 0.5 < 1.2 * quantizer.projections.abs().max()


def test_a_constant_that_all_vectors_share_leaves_few_codes_in_use() -> None:
    quantizer, vectors = RandomQuantizer(160, 1, 64, 16), torch.randn(2_000, 160)
    used, left = (entropy(quantizer(x)[:, 0], 64).exp() for x in (vectors, vectors + 8))
    assert used > 40 and left < 3
