"""Whitening: closed forms, and no more than training pixels."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.evaluation.controls import whitened


def test_without_shrinkage_the_points_become_white() -> None:
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    points = torch.randn(500, 6) * torch.tensor([8.0, 4, 2, 1, 1, 1]) @ turn
    mean, matrix = whitened.axes(points, 6, 1e-9)
    white = (points - mean) @ matrix
    assert torch.allclose(white.T @ white / 500, torch.eye(6), atol=1e-3)
    assert white.mean(0).abs().max() < 1e-4


def test_shrunken_variances_are_those_of_the_formula() -> None:
    points = torch.randn(500, 6) * torch.tensor([8.0, 4, 2, 1, 0.5, 0.1])
    mean, matrix = whitened.axes(points, 3, 2.0)
    variances = torch.linalg.eigvalsh((points - mean).T @ (points - mean) / 500).flip(0)
    expected = variances / (variances + 2 * variances.mean())
    assert torch.allclose(((points - mean) @ matrix).square().mean(0), expected[:3], atol=1e-4)


def test_constant_images_become_zeros() -> None:
    data = from_images(torch.full((5, 1, 4, 4), 9, dtype=torch.uint8))
    encoder = encoders.build("conv4", in_channels=1, image_size=8)
    features = whitened.make(encoder, data).features(data)
    assert features.abs().max() < 1e-3


def test_large_images_give_the_same_axes_without_a_full_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    points = torch.randn(60, 40) * torch.linspace(3, 0.1, 40)
    mean, exact = whitened.axes(points, 10, 2.0)
    monkeypatch.setattr(whitened, "EXACT", 8)
    same, quick = whitened.axes(points, 10, 2.0)
    assert torch.equal(mean, same)
    first, second = ((points - mean) @ matrix for matrix in (exact, quick))
    torch.testing.assert_close(first @ first.T, second @ second.T, rtol=1e-3, atol=1e-3)
