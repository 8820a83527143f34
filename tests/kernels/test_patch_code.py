"""The fused code of a dictionary against operations on whole tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.kernels import patch_code
from unlabeled.kernels.patch_code import pool_code


def slow(products: Tensor, scale: Tensor, offset: Tensor, cells: tuple[int, int], threshold: float) -> Tensor:
    values = products * scale + offset[:, None, None]
    parts = (values - threshold).clamp_min(0), (-values - threshold).clamp_min(0)
    return torch.cat([F.adaptive_avg_pool2d(part, cells) for part in parts], 1)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("shape", "cells"),
    [((5, 40, 27, 27), (9, 9)), ((3, 7, 59, 50), (9, 9)), ((2, 16, 5, 4), (5, 4)), ((1, 1, 1, 1), (1, 1))],
)
def test_equals_the_tensor_form(
    shape: tuple[int, ...], cells: tuple[int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(patch_code, "WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    products = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    scale, offset = torch.rand(shape[0], 1, *shape[2:]), torch.randn(shape[1])
    torch.testing.assert_close(
        pool_code(products, scale, offset, cells, 0.25), slow(products, scale, offset, cells, 0.25)
    )


def test_an_encoder_gives_the_same_with_and_without_a_gradient() -> None:
    torch.manual_seed(0)
    encoder = encoders.build("dictionary-16-mirror", image_size=20).eval()
    images = torch.rand(3, 3, 20, 20)
    with torch.no_grad():
        fused = encoder(images)
    assert encoder(images).requires_grad and not fused.requires_grad
    torch.testing.assert_close(fused, encoder(images).detach(), rtol=1e-5, atol=1e-5)
