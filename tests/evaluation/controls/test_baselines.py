"""Controls of older methods: closed forms of principal directions, codes and responsibilities."""

from typing import Any

import pytest
import torch

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.evaluation.controls import gaussian_mixture, kmeans_codes, pca

ENCODER: Any = encoders.build("dense", image_size=4, in_channels=1)


def two_heaps(count: int = 40, seed: int = 0) -> Any:
    """Dark and bright images in turn, with a little noise."""
    noise = torch.randint(20, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    bright = (torch.arange(count) % 2)[:, None, None, None]
    return from_images((noise + 200 * bright).to(torch.uint8))


def test_all_directions_keep_all_distances_and_few_are_the_widest() -> None:
    data = two_heaps()
    raw = ENCODER.raw(data.batch(torch.arange(40)))
    made = pca.make(ENCODER, data)
    vectors = made.features(data)
    assert vectors.shape == (40, 16) and made.one_unit and "100 % of the variance" in made.detail
    torch.testing.assert_close(torch.pdist(vectors), torch.pdist(raw), rtol=1e-3, atol=1e-3)
    few, own = pca.projected(ENCODER, data, 0, 3)
    variances = torch.linalg.svdvals((raw - raw.mean(0)).double()).square()
    torch.testing.assert_close(own.double().square().sum(0), variances[:3], rtol=1e-3, atol=1e-4)
    assert torch.allclose(few.features(data), own, atol=1e-5)


def test_codes_of_a_point_are_worked_out_by_hand() -> None:
    centres = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    assert kmeans_codes.codes(torch.zeros(1, 2), centres).tolist() == [[5.0, 0.0, 0.0]]
    at_the_middle = kmeans_codes.codes(centres[1:2], centres)[0].tolist()
    assert at_the_middle == pytest.approx([0.0, 10 / 3, 0.0], abs=1e-3)


@pytest.mark.parametrize("control", [kmeans_codes, gaussian_mixture])
def test_two_heaps_get_different_codes_whatever_their_order(control: Any) -> None:
    codes = control.make(ENCODER, two_heaps(), 0).features(two_heaps(20, 1))
    assert codes.isfinite().all() and (codes >= 0).all()
    dark, bright = codes[::2], codes[1::2]
    assert torch.cdist(dark, dark).mean() < 0.5 * torch.cdist(dark, bright).mean()


def test_responsibilities_sum_to_one_over_a_component_for_every_ten_samples() -> None:
    data = two_heaps()
    made = gaussian_mixture.make(ENCODER, data, 0)
    values = made.features(data)
    torch.testing.assert_close(values.sum(1), torch.ones(40))
    assert values.shape == (40, 4)
